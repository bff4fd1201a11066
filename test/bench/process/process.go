// Package process runs the servers that are measured, and reads what they cost
// out of /proc.
package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is one server. It ends with this program, however that ends.
type Process struct {
	Log    string // the file that it writes to
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start runs a program whose output goes to the end of a file.
func Start(log, program string, args ...string) (*Process, error) {
	return StartWith(nil, log, program, args...)
}

// StartWith is Start of a program that reads input.
func StartWith(input io.Reader, log, program string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdin = input
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Log: log, cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	return p, nil
}

// Pause stops the process where it is, as a host that dies does: its connections
// stay open, and nothing comes from it any more.
func (p *Process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Kill is kill -9. It returns once the process is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Alive answers an error with the end of the log once the process is gone.
func (p *Process) Alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended by itself; the end of its log:\n%s", filepath.Base(p.cmd.Path), Tail(p.Log, 2000))
	default:
		return nil
	}
}

// Tail is the end of a file, or why it can't be read.
func Tail(path string, bytes int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}

// Residence is what a process holds in memory, in MiB: now, of which not
// backed by files, and the most there ever was.
type Residence struct {
	RSS  float64 `json:"rssMiB"`
	Anon float64 `json:"anonMiB"`
	Peak float64 `json:"peakMiB"`
}

// Residence is what the process holds now.
func (p *Process) Residence() (Residence, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return Residence{}, err
	}
	defer file.Close()
	var r Residence
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

// Usage is what a process has used since it began.
type Usage struct {
	CPU     time.Duration
	Written uint64 // bytes that went to the disk
}

// Plus is that of both together.
func (u Usage) Plus(o Usage) Usage { return Usage{u.CPU + o.CPU, u.Written + o.Written} }

// Minus is what was used since o was read.
func (u Usage) Minus(o Usage) Usage { return Usage{u.CPU - o.CPU, u.Written - o.Written} }

// Usage is what the process has used so far.
func (p *Process) Usage() (Usage, error) { return usageOf(p.cmd.Process.Pid) }

// OwnUsage is that of this program.
func OwnUsage() (Usage, error) { return usageOf(os.Getpid()) }

func usageOf(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	cpu, err := cpuOf(string(stat))
	if err != nil {
		return Usage{}, err
	}
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return Usage{}, err
	}
	_, rest, _ := strings.Cut(string(io), "\nwrite_bytes: ")
	number, _, _ := strings.Cut(rest, "\n")
	written, err := strconv.ParseUint(number, 10, 64)
	return Usage{cpu, written}, err
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
