package hollow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/logs"
)

// Exec pretends a few commands: what a container's command can be, "echo" and
// "cat".
func (r *Runtime) Exec(ctx context.Context, containerID string, command []string, streams runtime.Streams) (int, error) {
	if err := r.needRunning(containerID); err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	if len(command) == 0 {
		return 0, errors.New("exec: no command")
	}
	switch path.Base(command[0]) {
	case "echo":
		return 0, say(streams.Stdout, strings.Join(command[1:], " ")+"\n")
	case "cat":
		if streams.Stdin == nil || streams.Stdout == nil {
			return 0, nil
		}
		_, err := io.Copy(streams.Stdout, streams.Stdin)
		return 0, err
	}
	f := fateOf(command)
	if !f.ends {
		return 126, say(streams.Stderr, "this is a hollow node: no container runs here that could run "+command[0]+"\n")
	}
	if err := wait(ctx, f.after); err != nil {
		return 0, err
	}
	return int(f.code), nil
}

func say(to io.Writer, text string) error {
	if to == nil {
		return nil
	}
	_, err := io.WriteString(to, text)
	return err
}

func (r *Runtime) ExecSync(ctx context.Context, containerID string, command []string, timeout time.Duration) ([]byte, int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var output bytes.Buffer
	code, err := r.Exec(ctx, containerID, command, runtime.Streams{Stdout: &output, Stderr: &output})
	return output.Bytes(), code, err
}

// Attach shows nothing until the container ends.
func (r *Runtime) Attach(ctx context.Context, containerID string, _ runtime.Streams) error {
	if err := r.needRunning(containerID); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	r.mu.Lock()
	ended := r.containers[containerID].ended
	r.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runtime) needRunning(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return runtime.ErrUnavailable
	}
	c := r.containers[id]
	if c == nil {
		return fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
	}
	if c.state.State != runtime.Running {
		return fmt.Errorf("container %s is %s", id, c.state.State)
	}
	return nil
}

func writeLog(file string, at time.Time, text string) error {
	if file == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(logs.Line{Time: at.UTC(), Text: []byte(text + "\n")}.Format(nil))
	return errors.Join(err, f.Close())
}
