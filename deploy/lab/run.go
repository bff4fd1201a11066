package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Files a control node writes when it has made or joined a cluster.
const (
	serverTokenFile = "server-token"
	agentTokenFile  = "agent-token"
	adminFile       = "admin.kubeconfig"
)

// command is muster's for the host: arguments, and what is passed in the
// environment so that no list of processes shows it. It is the same at every
// start: a node that finds its directory filled comes back by itself.
func (h *Host) command() (arguments, secrets []string, err error) {
	arguments = []string{"server", "--name", h.Name, "--dir", h.Dir}
	control := h.lab.Of(Control)
	if h.Role == Compute {
		arguments[0] = "agent"
		arguments = append(arguments, "--node-ip", h.Address().String(), "--image-archives", h.lab.images)
	} else {
		arguments = append(arguments, "--address", h.API())
	}
	if h == control[0] {
		return append(arguments, "--init", "--pod-cidr", podRange.String()), nil, nil
	}
	for _, c := range control {
		if c != h {
			arguments = append(arguments, "--join", c.API())
		}
	}
	file := serverTokenFile
	if h.Role == Compute {
		file = agentTokenFile
	}
	token, err := os.ReadFile(filepath.Join(control[0].Dir, file))
	return arguments, []string{"MUSTER_TOKEN=" + strings.TrimSpace(string(token))}, err
}

// Start starts the host's muster unless it runs. It does not wait until it is of
// use.
func (h *Host) Start(context.Context) error {
	if _, running := h.Running(); running {
		return nil
	}
	arguments, secrets, err := h.command()
	if err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	return h.startProgram(secrets, h.lab.muster, arguments...)
}

// startProgram starts a program that stays when its starter ends.
func (h *Host) startProgram(secrets []string, program string, arguments ...string) error {
	if err := os.MkdirAll(h.Dir, 0o711); err != nil {
		return err
	}
	log, err := os.OpenFile(h.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, arguments...)
	cmd.Dir = h.Dir
	cmd.Env = append(environment(), secrets...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := h.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	// Should it end while this process lives, nobody else can take its exit status.
	go func() { _ = cmd.Wait() }()
	return os.WriteFile(h.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644)
}

func (h *Host) pidFile() string { return filepath.Join(h.Dir, "muster.pid") }

// Running finds the host's muster.
func (h *Host) Running() (pid int, running bool) {
	raw, err := os.ReadFile(h.pidFile())
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, false
	}
	ours, container := h.matcher()(pid)
	return pid, ours && !container
}

// Command runs a program inside the host, for looking around.
func (h *Host) Command(ctx context.Context, program string, arguments ...string) *Command {
	path, err := exec.LookPath(program)
	cmd := exec.CommandContext(ctx, path, arguments...)
	cmd.Env = environment()
	if wd, err := os.Getwd(); err == nil {
		cmd.Dir = wd // a thread that changes its mounts forgets where it was
	}
	return &Command{Cmd: cmd, host: h, err: err}
}

// Command is a command that runs inside a host.
type Command struct {
	*exec.Cmd
	host *Host
	err  error
}

// Run starts the command and waits until it ends.
func (c *Command) Run() error {
	if c.err != nil {
		return c.err
	}
	if err := c.host.start(c.Cmd); err != nil {
		return err
	}
	return c.Wait()
}

// environment is what a host's processes get: a machine's own would have
// settings of whoever started the lab.
func environment() []string {
	env := []string{
		"HOME=/root",
		// A place that the host has for itself.
		"TMPDIR=" + runDir,
	}
	for _, name := range []string{"PATH", "LANG", "TERM"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// tail is the end of the host's log, for a person to see why it failed.
func (h *Host) tail(lines int) string {
	raw, err := os.ReadFile(h.Log())
	if errors.Is(err, fs.ErrNotExist) {
		return "(it has printed nothing)"
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// describeExit says that the host's muster is gone, and its last words.
func (h *Host) describeExit() error {
	if _, running := h.Running(); running {
		return nil
	}
	return fmt.Errorf("%s ended; the last lines of %s:\n%s", h.Name, h.Log(), indent(h.tail(15)))
}

func indent(text string) string {
	lines := slices.Collect(strings.Lines(text))
	for i := range lines {
		lines[i] = "    " + lines[i]
	}
	return strings.Join(lines, "")
}
