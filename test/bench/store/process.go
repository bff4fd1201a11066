package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one server. It ends with this program, however that ends.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// startProcess runs a program whose output goes to the end of a file.
func startProcess(log, program string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	return p, nil
}

// kill is kill -9. It returns once the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// alive answers an error with the end of the log once the process is gone.
func (p *process) alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended by itself; the end of its log:\n%s", filepath.Base(p.cmd.Path), tail(p.log, 2000))
	default:
		return nil
	}
}

func tail(path string, bytes int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}

// residence is what a process holds in memory, in MiB: now, of which not
// backed by files, and the most there ever was.
type residence struct {
	RSS  float64 `json:"rssMiB"`
	Anon float64 `json:"anonMiB"`
	Peak float64 `json:"peakMiB"`
}

func (p *process) residence() (residence, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return residence{}, err
	}
	defer file.Close()
	var r residence
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		switch name {
		case "VmRSS":
			r.RSS = kib / 1024
		case "RssAnon":
			r.Anon = kib / 1024
		case "VmHWM":
			r.Peak = kib / 1024
		}
	}
	return r, lines.Err()
}

// usage is what a process has used since it began.
type usage struct {
	cpu     time.Duration
	written uint64 // bytes that went to the disk
}

func (u usage) plus(o usage) usage  { return usage{u.cpu + o.cpu, u.written + o.written} }
func (u usage) minus(o usage) usage { return usage{u.cpu - o.cpu, u.written - o.written} }

func (p *process) usage() (usage, error) { return usageOf(p.cmd.Process.Pid) }

func usageOf(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	cpu, err := cpuOf(string(stat))
	if err != nil {
		return usage{}, err
	}
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return usage{}, err
	}
	_, rest, _ := strings.Cut(string(io), "\nwrite_bytes: ")
	number, _, _ := strings.Cut(rest, "\n")
	written, err := strconv.ParseUint(number, 10, 64)
	return usage{cpu, written}, err
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that Muster is built for.
const clockTick = 10 * time.Millisecond

// cpuOf reads user and system time, fields 14 and 15 of /proc/PID/stat (see
// proc_pid_stat(5)). Field 2, the name, may contain anything, so counting
// starts behind its last parenthesis.
func cpuOf(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat: too few fields")
	}
	user, err := strconv.ParseUint(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseUint(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick, err
}

// loadAverage is that of the last minute.
func loadAverage() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseFloat(first, 64)
}
