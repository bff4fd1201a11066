package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newAutopilotCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "autopilot",
		Short: "Show how well the control nodes are, and what is done about dead ones",
	}, newHealthCommand(), newGetConfigCommand(), newSetConfigCommand())
}

// autopilotHealth is what -o json prints.
type autopilotHealth struct {
	Healthy          bool           `json:"healthy"`
	FailureTolerance uint32         `json:"failureTolerance"`
	Leader           string         `json:"leader"` // empty: none is known
	Quorum           bool           `json:"quorum"`
	AnsweredBy       string         `json:"answeredBy"`
	Format           uint32         `json:"format"`
	Warnings         []string       `json:"warnings"`
	Servers          []serverHealth `json:"servers"`
}

type serverHealth struct {
	Name          string    `json:"name"`
	Address       string    `json:"address"`
	Voter         bool      `json:"voter"`
	Leader        bool      `json:"leader"`
	Healthy       bool      `json:"healthy"`
	Reason        string    `json:"reason,omitempty"`
	State         string    `json:"state"`
	Since         time.Time `json:"since"`
	Version       string    `json:"version,omitempty"`
	Format        uint32    `json:"format,omitempty"`
	Term          uint64    `json:"term,omitempty"`
	LastIndex     uint64    `json:"lastIndex,omitempty"`
	AppliedIndex  uint64    `json:"appliedIndex,omitempty"`
	LastContactMs int64     `json:"lastContactMs"`
	Disk          string    `json:"disk,omitempty"`
	DiskFreeBytes uint64    `json:"diskFreeBytes,omitempty"`
	LogBytes      uint64    `json:"logBytes,omitempty"`
	SnapshotBytes uint64    `json:"snapshotBytes,omitempty"`
}

func newHealthCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say how well the control nodes are, and how many more may fail",
		Long: `Say how well the control nodes are, and how many more may fail.

Any control node answers, with and without a leader: it asks all the others.
Warnings go to standard error. The status is 0 if all voters are healthy and
there is a leader, and 1 if not.

A control node is healthy if it answers, hears the leader, is at most 1024 log
entries behind, has room on its disk and reads what the cluster writes.
CONTACT is when it last heard the leader, SINCE since when it has been as it is.`,
		Example: `  muster operator autopilot health
  muster operator autopilot health -o json | jq '.servers[] | select(.healthy | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var response *clusterv1.AutopilotResponse
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				response, err = clusterv1.NewRaftClient(conn).Autopilot(ctx, &clusterv1.AutopilotRequest{})
				return err
			})
			if err != nil {
				return err
			}
			for _, warning := range response.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warning)
			}
			if form == outputJSON {
				err = printJSON(cmd.OutOrStdout(), newAutopilotHealth(response), false)
			} else {
				err = printHealth(cmd.OutOrStdout(), response)
			}
			if err == nil && !response.Healthy {
				err = errReported
			}
			return err
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newAutopilotHealth(r *clusterv1.AutopilotResponse) autopilotHealth {
	out := autopilotHealth{
		Healthy: r.Healthy, FailureTolerance: r.FailureTolerance, Leader: r.Leader, Quorum: r.Quorum,
		AnsweredBy: r.AnsweredBy, Format: r.Format, Warnings: append([]string{}, r.Warnings...), Servers: []serverHealth{},
	}
	for _, s := range r.Servers {
		it := serverHealth{
			Name: s.Name, Address: s.Address, Voter: s.Voter, Leader: s.Leader, Healthy: s.Healthy, Reason: s.Reason,
			State: s.State, Since: time.Unix(s.Since, 0).UTC(), Version: s.Version, Format: s.Format, Term: s.Term,
			LastIndex: s.LastIndex, AppliedIndex: s.AppliedIndex, LastContactMs: s.LastContactMs,
			DiskFreeBytes: s.DiskFreeBytes, LogBytes: s.LogBytes, SnapshotBytes: s.SnapshotBytes,
		}
		if s.Version != "" {
			it.Disk = diskState(s.Disk)
		}
		out.Servers = append(out.Servers, it)
	}
	return out
}

func printHealth(out io.Writer, r *clusterv1.AutopilotResponse) error {
	fmt.Fprintf(out, "healthy: %s, %d more may fail\n\n", yesNo(r.Healthy), r.FailureTolerance)
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tADDRESS\tVOTER\tLEADER\tHEALTHY\tSINCE\tCONTACT\tINDEX\tFORMAT\tVERSION\tDISK FREE\tREASON")
	for _, s := range r.Servers {
		contact, index, format, version, free, reason := "-", "-", "-", "-", "-", s.Reason
		if s.Version != "" || s.LastIndex > 0 {
			contact, index, format, version = "never", fmt.Sprint(s.LastIndex), fmt.Sprint(s.Format), s.Version
			free = fmt.Sprintf("%.1f GiB", float64(s.DiskFreeBytes)/(1<<30))
			if s.LastContactMs >= 0 {
				contact = fmt.Sprintf("%d ms", s.LastContactMs)
			}
			if s.Leader {
				contact = "leads"
			}
		}
		if reason == "" {
			reason = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Address, yesNo(s.Voter), yesNo(s.Leader),
			yesNo(s.Healthy), time.Unix(s.Since, 0).UTC().Format(time.RFC3339), contact, index, format, version, free, reason)
	}
	return w.Flush()
}

// autopilotConfig is what -o json prints.
type autopilotConfig struct {
	CleanupDeadServers bool   `json:"cleanupDeadServers"`
	DeadServerAfter    string `json:"deadServerAfter"`
	MinVoters          uint32 `json:"minVoters"`
	StableAfter        string `json:"stableAfter"`
}

func printConfig(out io.Writer, form output, s *clusterv1.AutopilotSettings) error {
	config := autopilotConfig{
		CleanupDeadServers: s.GetCleanupDeadServers(), MinVoters: s.GetMinVoters(),
		DeadServerAfter: seconds(s.GetDeadServerAfterSeconds()), StableAfter: seconds(s.GetStableAfterSeconds()),
	}
	if form == outputJSON {
		return printJSON(out, config, false)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "cleanup-dead-servers\t%v\n", config.CleanupDeadServers)
	fmt.Fprintf(w, "dead-server-after\t%s\n", config.DeadServerAfter)
	fmt.Fprintf(w, "min-voters\t%d\n", config.MinVoters)
	fmt.Fprintf(w, "stable-after\t%s\n", config.StableAfter)
	return w.Flush()
}

func seconds(s int64) string { return (time.Duration(s) * time.Second).String() }

func newGetConfigCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := &cobra.Command{
		Use:   "get-config",
		Short: "Print what is done about joining and dead control nodes",
		Long: `Print what is done about joining and dead control nodes; see set-config.

Without a leader the control node that is asked answers with what it knows.`,
		Example: `  muster operator autopilot get-config`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var settings *clusterv1.AutopilotSettings
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				settings, err = clusterv1.NewRaftClient(conn).GetAutopilotSettings(ctx, &clusterv1.GetAutopilotSettingsRequest{})
				return err
			})
			if err != nil {
				return err
			}
			return printConfig(cmd.OutOrStdout(), form, settings)
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newSetConfigCommand() *cobra.Command {
	var (
		target                       operatorFlags
		form                         output
		cleanup                      bool
		deadServerAfter, stableAfter time.Duration
		minVoters                    uint32
	)
	cmd := &cobra.Command{
		Use:   "set-config",
		Short: "Change what is done about joining and dead control nodes",
		Long: `Change what is done about joining and dead control nodes. What no flag names
stays as it is; all of it is printed. The settings are the cluster's and need a
leader to be changed.

A control node that neither gossip nor the leader has heard for
--dead-server-after is removed, one at a time, unless fewer than --min-voters
would be left or too few of them live to agree.`,
		Example: `  muster operator autopilot set-config --dead-server-after 30m
  muster operator autopilot set-config --cleanup-dead-servers=false`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := &clusterv1.AutopilotSettings{}
			flags := cmd.Flags()
			for _, d := range []struct {
				flag  string
				value time.Duration
				to    **int64
			}{
				{"dead-server-after", deadServerAfter, &given.DeadServerAfterSeconds},
				{"stable-after", stableAfter, &given.StableAfterSeconds},
			} {
				if !flags.Changed(d.flag) {
					continue
				}
				if d.value%time.Second != 0 {
					return fmt.Errorf("--%s %v: want whole seconds", d.flag, d.value)
				}
				*d.to = proto.Int64(int64(d.value / time.Second))
			}
			if flags.Changed("cleanup-dead-servers") {
				given.CleanupDeadServers = &cleanup
			}
			if flags.Changed("min-voters") {
				given.MinVoters = &minVoters
			}
			if proto.Equal(given, &clusterv1.AutopilotSettings{}) {
				return fmt.Errorf("nothing to change: give --cleanup-dead-servers, --dead-server-after, --min-voters or --stable-after")
			}
			var settings *clusterv1.AutopilotSettings
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), raftTimeout)
				defer cancel()
				settings, err = clusterv1.NewRaftClient(conn).SetAutopilotSettings(ctx, given)
				return err
			})
			if err != nil {
				return err
			}
			return printConfig(cmd.OutOrStdout(), form, settings)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&cleanup, "cleanup-dead-servers", true, "remove control nodes that are dead for good")
	flags.DurationVar(&deadServerAfter, "dead-server-after", 10*time.Minute, "how long a control node must have been dead to be removed")
	flags.Uint32Var(&minVoters, "min-voters", 3, "never go below this number of voters by removing dead ones")
	flags.DurationVar(&stableAfter, "stable-after", 2*time.Second, "how long a joining control node must have been well to vote, from the fourth on")
	form.add(flags)
	target.add(flags)
	return cmd
}
