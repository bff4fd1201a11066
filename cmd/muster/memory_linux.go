package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// giveBackAfter is when a node has started and the pages of the program that
	// only starting needs have been read.
	giveBackAfter = 5 * time.Second
	giveBackEvery = 10 * time.Minute
)

// giveBack lets go, once the node has started and now and then, of the pages of
// the program's own file. Most of them are read once, by the initialisation of
// the Kubernetes types, and would count as this process' memory for ever. The
// kernel still has them in its cache, and maps again what is used.
func giveBack(ctx context.Context, ready <-chan struct{}, log *slog.Logger) {
	select {
	case <-ready:
	case <-ctx.Done():
		return
	}
	for wait := giveBackAfter; ; wait = giveBackEvery {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		debug.FreeOSMemory()
		if err := releaseProgram(); err != nil {
			log.Debug("pages of the program are kept", "error", err)
			return
		}
	}
}

// releaseProgram unmaps the pages of the program's file that cannot differ from
// the file: those that may not be written and that nobody has written to.
func releaseProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close()
	var from, to uintptr
	ours := false
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		line := lines.Text()
		var start, end, offset uintptr
		var perms, device string
		var inode uint64
		if n, _ := fmt.Sscanf(line, "%x-%x %s %x %s %d", &start, &end, &perms, &offset, &device, &inode); n == 6 {
			ours = strings.HasSuffix(line, " "+program) && !strings.Contains(perms, "w")
			from, to = start, end
			continue
		}
		var own int
		if n, _ := fmt.Sscanf(line, "Anonymous: %d kB", &own); n == 1 && ours && own == 0 {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return fmt.Errorf("madvise: %w", errno)
			}
		}
	}
	return lines.Err()
}
