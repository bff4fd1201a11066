package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/deploy/dev"
)

func newDevCommand() *cobra.Command {
	var (
		logs logFlags
		cfg  dev.Config
	)
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster in this process: 3 control nodes, 2 hollow compute nodes",
		Long: `Run a whole cluster in this process: 3 control nodes and 2 compute nodes on free
ports of 127.0.0.1. It needs no root. The compute nodes are hollow: they take
pods and report them running, but start no containers.

Without --dir it keeps nothing. Ctrl-C ends it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			log, err := logs.logger()
			if err != nil {
				return err
			}
			cfg.Logger, cfg.Version = log, version
			if cfg.Dir == "" {
				if cfg.Dir, err = os.MkdirTemp("", "muster-dev-"); err != nil {
					return err
				}
				defer os.RemoveAll(cfg.Dir)
			}
			if cfg.Servers < 1 || cfg.Agents < 1 {
				return errors.New("servers, agents: want at least one of each")
			}
			cluster, err := dev.New(cfg)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			go func() {
				select {
				case <-ctx.Done():
				case <-cluster.Ready():
					first := cluster.ServerNames()[0]
					fmt.Fprintf(cmd.OutOrStdout(), `muster dev: %d control nodes and %d hollow compute nodes are ready after %s

  export KUBECONFIG=%s
  kubectl get nodes            (or: muster kubectl get nodes)
  muster members

Ctrl-C ends it.
`, cfg.Servers, cfg.Agents, time.Since(began).Round(time.Millisecond), cluster.Kubeconfig(first))
				}
			}()
			return cluster.Run(ctx)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Dir, "dir", "", "directory that keeps the cluster between runs (default: a temporary one)")
	flags.IntVar(&cfg.Servers, "servers", 3, "number of control nodes")
	flags.IntVar(&cfg.Agents, "agents", 2, "number of hollow compute nodes")
	logs.add(flags)
	// What a cluster in a terminal logs by default is what went wrong.
	flags.Lookup("log-level").DefValue = "warn"
	logs.level = "warn"
	return cmd
}
