package node

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// state is what a machine has and has left.
type state struct {
	memoryBytes, memoryFree int64
	diskBytes, diskFree     int64
	pids, pidsMax           int64
}

func machine(dir string) (s state) {
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		s.memoryBytes, s.memoryFree = memory(string(text))
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		s.diskBytes = int64(fs.Blocks) * fs.Bsize
		s.diskFree = int64(fs.Bavail) * fs.Bsize
	}
	if text, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		s.pidsMax, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	// The fourth word of loadavg is "runnable/existing" tasks.
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if words := strings.Fields(string(text)); len(words) > 3 {
			_, existing, _ := strings.Cut(words[3], "/")
			s.pids, _ = strconv.ParseInt(existing, 10, 64)
		}
	}
	return s
}

// memory reads /proc/meminfo: all there is, and what can be had without swapping.
func memory(meminfo string) (total, available int64) {
	for line := range strings.Lines(meminfo) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			continue
		}
		switch words[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			available = kib << 10
		}
	}
	return total, available
}
