// Command lab makes a cluster of five hosts on this machine, and breaks it. It
// is what `make up` and `make down` call.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/deploy/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	status, message := ending(newCommand().ExecuteContext(ctx))
	if message != "" {
		fmt.Fprintln(os.Stderr, "lab:", message)
	}
	os.Exit(status)
}

// ending is the exit status, and what to say. A command that was run inside a
// host has spoken for itself: its end comes as it is. One that was run on the
// way to something else comes wrapped in what it was for.
func ending(err error) (status int, message string) {
	if err == nil {
		return 0, ""
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode(), ""
	}
	return 1, err.Error()
}

func newCommand() *cobra.Command {
	var (
		cfg    lab.Config
		subnet string
	)
	root := &cobra.Command{
		Use:   "lab",
		Short: "A cluster of five hosts in network namespaces on this machine",
		Long: `A cluster of five hosts in network namespaces on this machine: control nodes
c1, c2 and c3, compute nodes n1 and n2.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&cfg.Dir, "dir", ".cluster", "the lab's folder")
	flags.StringVar(&cfg.Muster, "muster", "bin/muster", "the muster binary")
	flags.StringVar(&cfg.Images, "images", "bin/images", "folder of image archives that compute nodes import")
	flags.StringVar(&subnet, "subnet", "", "/24 for the hosts (default: the first of 10.77.0.0/24, 10.78.0.0/24, … that is free)")

	// with opens the lab for a command.
	with := func(do func(ctx context.Context, l *lab.Lab, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			if subnet != "" {
				var err error
				if cfg.Subnet, err = netip.ParsePrefix(subnet); err != nil {
					return fmt.Errorf("--subnet: %w", err)
				}
			}
			l, err := lab.Open(cfg)
			if err != nil {
				return err
			}
			return do(cmd.Context(), l, args)
		}
	}
	host := func(do func(h *lab.Host, ctx context.Context) error) func(*cobra.Command, []string) error {
		return with(func(ctx context.Context, l *lab.Lab, args []string) error {
			for _, name := range args {
				h, err := l.Host(name)
				if err != nil {
					return err
				}
				if err := do(h, ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}

	var example string
	up := &cobra.Command{
		Use:   "up",
		Short: "Make the hosts and start the cluster, as far as it is not there",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, l *lab.Lab, _ []string) error {
			began := time.Now()
			if err := l.Up(ctx, os.Stdout); err != nil {
				return err
			}
			if example != "" {
				if err := l.Hello(ctx, os.Stdout, example); err != nil {
					return err
				}
			}
			fmt.Printf("\nThe cluster is up, after %.0f s. What to type next:\n%s", time.Since(began).Seconds(), next(l))
			return nil
		}),
	}
	up.Flags().StringVar(&example, "example", "deploy/examples/hello.yaml", "manifest to apply and wait for; empty for none")
	down := &cobra.Command{
		Use:   "down",
		Short: "Remove every trace of the cluster and its hosts",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, l *lab.Lab, _ []string) error {
			if err := l.Down(ctx); err != nil {
				return err
			}
			fmt.Printf("The lab in %s is gone.\n", l.Dir)
			return nil
		}),
	}
	status := &cobra.Command{
		Use:   "status",
		Short: "List the hosts and what runs on them",
		Args:  cobra.NoArgs,
		RunE:  with(func(_ context.Context, l *lab.Lab, _ []string) error { return l.Status(os.Stdout) }),
	}
	kill := &cobra.Command{
		Use:   "kill HOST...",
		Short: "End every process of a host with SIGKILL, containers included",
		Args:  cobra.MinimumNArgs(1),
		RunE:  host((*lab.Host).Kill),
	}
	start := &cobra.Command{
		Use:   "start HOST...",
		Short: "Start a host's muster again",
		Args:  cobra.MinimumNArgs(1),
		RunE:  host((*lab.Host).Start),
	}
	run := &cobra.Command{
		Use:                   "exec HOST COMMAND...",
		Short:                 "Run a command inside a host",
		Args:                  cobra.MinimumNArgs(2),
		DisableFlagsInUseLine: true,
		RunE: with(func(ctx context.Context, l *lab.Lab, args []string) error {
			h, err := l.Host(args[0])
			if err != nil {
				return err
			}
			cmd := h.Command(ctx, args[1], args[2:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			return cmd.Run()
		}),
	}
	run.Flags().SetInterspersed(false)
	root.AddCommand(up, down, status, kill, start, run)
	return root
}

// next is what to type once the cluster is up.
func next(l *lab.Lab) string {
	short := func(path string) string {
		wd, err := os.Getwd()
		if err != nil {
			return path
		}
		if shorter, err := filepath.Rel(wd, path); err == nil && len(shorter) < len(path) {
			return shorter
		}
		return path
	}
	return fmt.Sprintf(`
  export KUBECONFIG=%s PATH=$PWD/bin:$PATH
  kubectl get pods -o wide                  # where they run
  kubectl exec -it busybox -- sh            # a shell in one of them
  kubectl delete pod -l app=hello           # and see them replaced
  bin/lab kill n1 ; kubectl get pods -w     # a machine dies; its pods move
  bin/lab kill c1 ; muster members --context c2   # the others go on
  bin/lab start n1 c1 ; bin/lab status      # and they come back
  make down                                 # no trace is left
`, short(l.Kubeconfig()))
}
