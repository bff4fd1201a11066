package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// How long the steps of Up may take. They are far above what they take, for
// machines that are busy with other things.
const (
	serveLimit = 60 * time.Second
	nodeLimit  = 90 * time.Second
)

// Up makes the lab and starts the cluster, as far as it is not there: hosts that
// run are left alone, those that are missing are started. It returns when every
// control node serves and every compute node is Ready, and tells out about
// each step.
func (l *Lab) Up(ctx context.Context, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and containers need root; without root, try: muster dev")
	}
	unlock, err := exclusive(ctx, l.Name)
	if err != nil {
		return err
	}
	defer unlock()
	steps := &progress{out: out}

	if err := steps.do("network", func(report func(string)) error {
		if err := l.addNetwork(ctx); err != nil {
			return err
		}
		report(fmt.Sprintf("5 hosts on %v, namespaces %s-*", l.Subnet, l.Name))
		return nil
	}); err != nil {
		return err
	}

	control, compute := l.Of(Control), l.Of(Compute)
	if err := steps.do(names(control[:1]), func(report func(string)) error {
		if err := l.startFirst(ctx, control[0]); err != nil {
			return err
		}
		report("leads a cluster at https://" + control[0].API())
		return nil
	}); err != nil {
		return err
	}
	if err := steps.do(names(control[1:])+", "+names(compute), func(report func(string)) error {
		for _, h := range append(control[1:], compute...) {
			if err := h.Start(ctx); err != nil {
				return err
			}
		}
		report("started")
		return nil
	}); err != nil {
		return err
	}
	if err := l.writeKubeconfig(); err != nil {
		return err
	}
	api, err := l.API()
	if err != nil {
		return err
	}
	if err := steps.do(names(control), func(report func(string)) error {
		for _, h := range control {
			if err := l.await(ctx, serveLimit, "serve", func(ctx context.Context) error { return api.serves(ctx, h.Name) }); err != nil {
				return err
			}
		}
		report("serve")
		return nil
	}); err != nil {
		return err
	}
	return steps.do(names(compute), func(report func(string)) error {
		for _, h := range compute {
			if err := l.await(ctx, nodeLimit, "be Ready", func(ctx context.Context) error { return api.nodeReady(ctx, h.Name) }); err != nil {
				return err
			}
		}
		report("are Ready")
		return nil
	})
}

// startFirst starts the host that makes the cluster and waits for what the
// others need to join it.
func (l *Lab) startFirst(ctx context.Context, h *Host) error {
	if err := h.Start(ctx); err != nil {
		return err
	}
	return l.await(ctx, serveLimit, "make the cluster", func(context.Context) error {
		for _, name := range []string{serverTokenFile, agentTokenFile, adminFile} {
			if info, err := os.Stat(filepath.Join(h.Dir, name)); err != nil || info.Size() == 0 {
				return fmt.Errorf("%s has no %s", h.Name, name)
			}
		}
		return nil
	})
}

// await calls check until it succeeds. It gives up when a host that should run
// has ended, with what that host said last.
func (l *Lab) await(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, 5*time.Second)
		err := check(try)
		done()
		if err == nil {
			return nil
		}
		for _, h := range l.Hosts {
			if _, err := os.Stat(h.pidFile()); err != nil {
				continue // not started yet
			}
			if err := h.describeExit(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v to %s: %w\nlogs: %s", limit, what, err, filepath.Join(l.Dir, "*", "muster.log"))
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// progress prints a line for each step when it has ended, with its time, and for
// a person who waits, the step's name when it begins.
type progress struct {
	out io.Writer
}

func (p *progress) do(name string, step func(report func(string)) error) error {
	began := time.Now()
	fmt.Fprintf(p.out, "  %-22s ", name)
	said := "done"
	err := step(func(text string) { said = text })
	if err != nil {
		fmt.Fprintln(p.out, "failed")
		return err
	}
	fmt.Fprintf(p.out, "%s (%.1f s)\n", said, time.Since(began).Seconds())
	return nil
}

func names(hosts []*Host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.Name)
	}
	return strings.Join(all, ", ")
}
