package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// raftTimeout bounds a change of the configuration, which may wait for disks.
const raftTimeout = 10 * time.Second

func newRaftCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "raft",
		Short: "Show and change which control nodes decide, and which one leads",
	}, newListPeersCommand(), newRemovePeerCommand(), newTransferLeadershipCommand())
}

// raftPeers is the list as -o json prints it.
type raftPeers struct {
	Leader        string     `json:"leader"` // empty: none is known
	LeaderAddress string     `json:"leaderAddress"`
	Quorum        bool       `json:"quorum"`
	AnsweredBy    string     `json:"answeredBy"`
	Term          uint64     `json:"term"`
	LastIndex     uint64     `json:"lastIndex"`
	AppliedIndex  uint64     `json:"appliedIndex"`
	Warning       string     `json:"warning,omitempty"`
	Peers         []raftPeer `json:"peers"`
}

type raftPeer struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	State   string `json:"state"`
	Voter   bool   `json:"voter"`
	Leader  bool   `json:"leader"`
}

func newListPeersCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := &cobra.Command{
		Use:   "list-peers",
		Short: "List the control nodes of the raft configuration, with or without a leader",
		Long: `List the control nodes of the raft configuration.

Any control node answers with what it knows, also one that has lost the others;
it then says so on standard error. That is no error: the status is 0.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var response *clusterv1.ListPeersResponse
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				response, err = clusterv1.NewRaftClient(conn).ListPeers(ctx, &clusterv1.ListPeersRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if response.Warning != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", response.Warning)
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), newRaftPeers(response), false)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tADDRESS\tSTATE\tVOTER\tLEADER")
			for _, p := range response.Peers {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Address, p.State, yesNo(p.Voter), yesNo(p.Leader))
			}
			return w.Flush()
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newRaftPeers(r *clusterv1.ListPeersResponse) raftPeers {
	out := raftPeers{
		Leader: r.Leader, LeaderAddress: r.LeaderAddress, Quorum: r.Quorum, AnsweredBy: r.AnsweredBy,
		Term: r.Term, LastIndex: r.LastIndex, AppliedIndex: r.AppliedIndex, Warning: r.Warning, Peers: []raftPeer{},
	}
	for _, p := range r.Peers {
		out.Peers = append(out.Peers, raftPeer{Name: p.Name, Address: p.Address, State: p.State, Voter: p.Voter, Leader: p.Leader})
	}
	return out
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newRemovePeerCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.RemovePeerRequest
	)
	cmd := &cobra.Command{
		Use:   "remove-peer NAME",
		Short: "Take a control node out of the raft configuration, for good",
		Long: `Take a control node out of the raft configuration, for good.

Stop the node first: one that still runs would ask to be let in again when it
is restarted. What would leave fewer control nodes alive than the rest needs for
a quorum is refused unless it is forced. Whichever control node is asked, the
request goes to the leader.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Name = args[0]
			err := target.lead(cmd.Context(), func(c clusterv1.RaftClient) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), raftTimeout)
				defer cancel()
				_, err := c.RemovePeer(ctx, &request)
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"removed": request.Name}, false)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "removed", request.Name)
			return nil
		},
	}
	cmd.Flags().BoolVar(&request.Force, "force", false, "remove it although too few would be left alive for a quorum")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newTransferLeadershipCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := &cobra.Command{
		Use:   "transfer-leadership",
		Short: "Have the leader hand leadership to another control node",
		Long: `Have the leader hand leadership to another control node, the most current one.

Requests wait while it changes hands; none fails. Whichever control node is
asked, the request goes to the leader.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var response *clusterv1.TransferLeadershipResponse
			err := target.lead(cmd.Context(), func(c clusterv1.RaftClient) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), raftTimeout)
				defer cancel()
				response, err = c.TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"leader": response.Leader}, false)
			}
			fmt.Fprintln(cmd.OutOrStdout(), response.Leader, "leads")
			return nil
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}
