package node

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// state is what a machine has and has left.
type state struct {
	memoryBytes, memoryFree int64
	diskBytes, diskFree     int64
	pids, pidsMax           int64
}

func (s state) memoryLow() bool { return s.memoryFree < memoryLow }
func (s state) diskLow() bool   { return float64(s.diskFree) < diskLow*float64(s.diskBytes) }
func (s state) pidsLow() bool {
	return s.pidsMax > 0 && float64(s.pidsMax-s.pids) < pidsLow*float64(s.pidsMax)
}

// signs are all that a status is made of and that may change: to compare them
// costs nothing, and to make a status and compare that is what thousands of
// nodes in one process would mostly do.
type signs struct {
	health                      Health
	memoryBytes, diskBytes      int64
	memoryLow, diskLow, pidsLow bool
	listed                      time.Time // images
}

func (n *Node) signs(health Health) signs {
	m := n.state
	return signs{health, m.memoryBytes, m.diskBytes, m.memoryLow(), m.diskLow(), m.pidsLow(), n.listed}
}

// examine looks at the machine, now and then.
func (n *Node) examine() {
	if n.looked.IsZero() || time.Since(n.looked) > lookEvery {
		n.state, n.looked = machine(n.cfg.Dir), time.Now()
	}
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
