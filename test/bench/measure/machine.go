package measure

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is where it was measured. Load averages are of one minute.
type Machine struct {
	CPUs      int     `json:"cpus"`
	Kernel    string  `json:"kernel"`
	LoadBegin float64 `json:"loadBegin"`
	LoadEnd   float64 `json:"loadEnd"`
}

// Look writes down where this runs, waits at most so long for the load average
// to fall to 1, as after a build, and warns of what would spoil the figures of
// servers whose data is in dir.
func Look(ctx context.Context, dir string, wait time.Duration) (m Machine, err error) {
	m.CPUs = runtime.NumCPU()
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	for until := time.Now().Add(wait); ; Sleep(ctx, time.Second) {
		if m.LoadBegin, err = LoadAverage(); err != nil {
			return m, err
		}
		if m.LoadBegin <= 1 || ctx.Err() != nil || time.Now().After(until) {
			break
		}
	}
	Progress("load average %.2f", m.LoadBegin)
	if m.LoadBegin > 1 {
		Progress("WARNING: this machine is busy: the figures will say more about its other work than about the systems")
	}
	var fs syscall.Statfs_t
	const tmpfs = 0x01021994
	if err := syscall.Statfs(dir, &fs); err == nil && fs.Type == tmpfs {
		Progress("WARNING: %s is in memory, where fsync costs nothing; choose another --dir", dir)
	}
	return m, nil
}

// LoadAverage is that of the last minute.
func LoadAverage() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseFloat(first, 64)
}

// Progress tells whoever waits.
func Progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
