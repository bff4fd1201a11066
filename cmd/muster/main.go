// Command muster is the whole of Muster in one file: control node, compute
// node, a cluster on one machine, the operator's verbs and kubectl.
//
// A file per verb; each turns flags, environment and the config file into a
// Config value (see settings.go) and calls the package that does the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/control"
)

// version is set by the linker (make build).
var version = "dev"

func main() {
	// A link named kubectl behaves as kubectl.
	if filepath.Base(os.Args[0]) == "kubectl" {
		os.Exit(runKubectl(os.Args[1:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks, the second one ends at once.
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintln(os.Stderr, "muster:", err)
		}
		if errors.Is(err, control.ErrRefused) {
			os.Exit(statusRefused)
		}
		var status exitStatus
		if errors.As(err, &status) {
			os.Exit(status.code)
		}
		os.Exit(1)
	}
}

// statusRefused ends a control node that its cluster does not let in: starting
// it again changes nothing, so the systemd unit does not.
const statusRefused = 3

// exitStatus ends the process with a status that scripts ask for.
type exitStatus struct {
	code int
	error
}

func (s exitStatus) Unwrap() error { return s.error }

// errReported ends the process with status 1 without another line: what went
// wrong has been said.
var errReported = errors.New("already reported")

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "muster",
		Short: "One highly available, Kubernetes-compatible cluster from bare machines",
		Long: `Muster turns bare machines into one highly available, Kubernetes-compatible cluster.

Three control nodes agree through raft, compute nodes run pods on containerd,
and kubectl works as it does anywhere. To try it on this machine: muster dev.

Every setting of a command is a flag, an environment variable (MUSTER_ and the
flag's name in capitals, dashes as underscores) or a key of the YAML file that
--config names. A flag wins over the environment, the environment over the file.
A setting that no command knows is an error.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.AddCommand(
		newServerCommand(),
		newAgentCommand(),
		newDevCommand(),
		newMembersCommand(),
		newTokenCommand(),
		newOperatorCommand(),
		newExplainCommand(),
		newPlanCommand(),
		newApplyCommand(),
		newKubectlCommand(),
	)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		return applySettings(cmd, os.Environ())
	}
	return root
}
