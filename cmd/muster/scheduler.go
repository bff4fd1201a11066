package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newSchedulerCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "scheduler",
		Short: "Show, pause, resume and tune the placing of pods",
	}, newSchedulerStatusCommand(), newPauseCommand(), newResumeCommand(), newAlgorithmCommand(), newProfilesCommand())
}

// schedulerStatus is what -o json prints.
type schedulerStatus struct {
	Leader        string          `json:"leader"`
	Paused        bool            `json:"paused"`
	Pause         *schedulerPause `json:"pause,omitempty"`
	Algorithm     string          `json:"algorithm"`
	Nodes         uint64          `json:"nodes"`
	Ready         uint64          `json:"ready"`
	BackingOff    uint64          `json:"backingOff"`
	Unschedulable uint64          `json:"unschedulable"`
	Binding       uint64          `json:"binding"`
}

type schedulerPause struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
}

func newSchedulerPause(p *clusterv1.SchedulerPause) *schedulerPause {
	if p == nil {
		return nil
	}
	return &schedulerPause{Reason: p.Reason, By: p.By, Since: time.Unix(p.Since, 0).UTC()}
}

// String is the pause in a line: since when, by whom and why.
func (p *schedulerPause) String() string {
	line := "since " + p.Since.Format(time.RFC3339)
	if p.By != "" {
		line += " by " + p.By
	}
	if p.Reason != "" {
		line += ": " + p.Reason
	}
	return line
}

func newSchedulerStatusCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether pods are given to nodes, and how many wait",
		Long: `Say whether pods are given to nodes, and how many wait.

READY pods wait for their turn, BACKING OFF ones because a write has failed,
UNSCHEDULABLE ones because no node can take them as things are, and BINDING ones
have a node that is being written down. Whichever control node is asked, the
request goes to the leader.`,
		Example: `  muster operator scheduler status`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r *clusterv1.SchedulerStatusResponse
			err := target.leader(cmd.Context(), func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				r, err = clusterv1.NewSchedulerClient(conn).Status(ctx, &clusterv1.SchedulerStatusRequest{})
				return err
			})
			if err != nil {
				return err
			}
			status := schedulerStatus{
				Leader: r.Leader, Paused: r.Pause != nil, Pause: newSchedulerPause(r.Pause), Algorithm: r.Algorithm, Nodes: r.Nodes,
				Ready: r.Ready, BackingOff: r.BackingOff, Unschedulable: r.Unschedulable, Binding: r.Binding,
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), status, false)
			}
			return status.print(cmd.OutOrStdout())
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func (s *schedulerStatus) print(out io.Writer) error {
	paused := "no"
	if s.Pause != nil {
		paused = s.Pause.String()
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "leader\t%s\npaused\t%s\nalgorithm\t%s\nnodes\t%d\n", s.Leader, paused, s.Algorithm, s.Nodes)
	fmt.Fprintf(w, "ready\t%d\nbacking off\t%d\nunschedulable\t%d\nbinding\t%d\n", s.Ready, s.BackingOff, s.Unschedulable, s.Binding)
	return w.Flush()
}

func newPauseCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.PauseSchedulerRequest
	)
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Give no pod to any node, until resume: a brake for incidents",
		Long: `Give no pod to any node, and evict none for another, until resume: a brake for
incidents.

Pods that run go on running, and controllers go on making and deleting pods; new
ones wait, and after 2 seconds say why. A few hundred placements that are being
written at this moment may still be carried out. It is the cluster's: a new
leader keeps it. If it is paused already, that pause stays as it is.`,
		Example: `  muster operator scheduler pause --reason "rack 7 is on fire"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var response *clusterv1.PauseSchedulerResponse
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				response, err = clusterv1.NewSchedulerClient(conn).Pause(ctx, &request)
				return err
			})
			if err != nil {
				return err
			}
			pause := newSchedulerPause(response.Pause)
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"paused": true, "already": response.Already, "pause": pause}, false)
			}
			if response.Already {
				fmt.Fprintln(cmd.OutOrStdout(), "was paused before:", pause)
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), "paused; muster operator scheduler resume ends it")
			return nil
		},
	}
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why, for those whose pods wait")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newResumeCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := &cobra.Command{
		Use:     "resume",
		Short:   "Give pods to nodes again",
		Long:    `Give pods to nodes again, after a pause. It is no error if there was none.`,
		Example: `  muster operator scheduler resume`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var response *clusterv1.ResumeSchedulerResponse
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				response, err = clusterv1.NewSchedulerClient(conn).Resume(ctx, &clusterv1.ResumeSchedulerRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"paused": false, "already": response.Already}, false)
			}
			if response.Already {
				fmt.Fprintln(cmd.OutOrStdout(), "was not paused")
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), "resumed")
			return nil
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newAlgorithmCommand() *cobra.Command {
	var target operatorFlags
	cmd := &cobra.Command{
		Use:   "algorithm spread|binpack",
		Short: "Choose whether pods go where most is left, or least",
		Long: `Choose whether pods go where most is left, or least.

With spread, which a cluster begins with, pods prefer nodes with much of their CPU
and memory left. With binpack they prefer nodes with little, so that whole nodes
stay empty for large pods, or to be switched off. Everything else that pods and
nodes say counts as before: pods of one service are still spread over nodes where
there is a choice.

It holds for the whole cluster from the next decision on, and moves no pod that
has a node; profiles that have a scoringStrategy of their own keep it. muster operator scheduler status shows it.`,
		Example:   `  muster operator scheduler algorithm binpack`,
		ValidArgs: []string{"spread", "binpack"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := target.each(func(conn *grpc.ClientConn) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				_, err := clusterv1.NewSchedulerClient(conn).SetAlgorithm(ctx, &clusterv1.SetSchedulerAlgorithmRequest{Algorithm: args[0]})
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "algorithm:", args[0])
			return nil
		},
	}
	target.add(cmd.Flags())
	return cmd
}
