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
	}, newListPeersCommand(), newAddPeerCommand(), newRemovePeerCommand(), newTransferLeadershipCommand())
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
	// What it says of itself; reachable is false, and the rest absent, where it
	// does not answer.
	Reachable     bool    `json:"reachable"`
	Version       string  `json:"version,omitempty"`
	Lag           *uint64 `json:"lag,omitempty"` // log entries behind the leader
	Disk          string  `json:"disk,omitempty"`
	DiskFreeBytes uint64  `json:"diskFreeBytes,omitempty"`
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
it then says so on standard error. That is no error: the status is 0.

LAG is how many log entries a control node is behind the leader, DISK whether its
disk takes more. Both, and VERSION, are what it says itself: - where it does not
answer.`,
		Example: `  muster operator raft list-peers
  muster operator raft list-peers --server 10.0.0.2:6443 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var response *clusterv1.ListPeersResponse
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				response, err = clusterv1.NewRaftClient(conn).ListPeers(ctx, &clusterv1.ListPeersRequest{Describe: true})
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
			fmt.Fprintln(w, "NAME\tADDRESS\tSTATE\tVOTER\tLEADER\tLAG\tVERSION\tDISK")
			for _, p := range response.Peers {
				lag, version, disk := "-", "-", "-"
				if p.Reachable {
					lag, version, disk = fmt.Sprint(p.Lag), p.Version, diskState(p.Disk)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Address, p.State, yesNo(p.Voter), yesNo(p.Leader), lag, version, disk)
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
		peer := raftPeer{Name: p.Name, Address: p.Address, State: p.State, Voter: p.Voter, Leader: p.Leader, Reachable: p.Reachable}
		if p.Reachable {
			peer.Version, peer.Lag, peer.Disk, peer.DiskFreeBytes = p.Version, &p.Lag, diskState(p.Disk), p.DiskFreeBytes
		}
		out.Peers = append(out.Peers, peer)
	}
	return out
}

func diskState(s clusterv1.DiskState) string {
	if s == clusterv1.DiskState_DISK_FULL {
		return "full"
	}
	return "ok"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newAddPeerCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.AddPeerRequest
	)
	cmd := &cobra.Command{
		Use:   "add-peer NAME ADDRESS",
		Short: "Take a control node into the raft configuration, also one that was removed",
		Long: `Take a control node into the raft configuration, also one that was removed.

A machine that joins with a token needs none of this: it asks to be let in by
itself. This is for a node that was removed and is to come back with what it
has. Run it, then start the node, before clean-up takes it for dead. It votes
once it has caught up and been well for a while (muster operator autopilot
get-config). ADDRESS is host:port. Whichever control node is asked, the request
goes to the leader.`,
		Example: `  muster operator raft add-peer c3 10.0.0.3:6443`,
		Args:    words(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Name, request.Address = args[0], args[1]
			var response *clusterv1.AddPeerResponse
			err := target.lead(cmd.Context(), func(c clusterv1.RaftClient) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), raftTimeout)
				defer cancel()
				response, err = c.AddPeer(ctx, &request)
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"added": request.Name, "address": request.Address, "voter": response.Voter}, false)
			}
			suffix := "; it votes once it has caught up"
			if response.Voter {
				suffix = "; it votes"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "added %s at %s%s\n", request.Name, request.Address, suffix)
			return nil
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
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

It stays out: a node that runs ends within seconds and says why, and so does one
that is started again with its directory. Another machine may join with a token
under the same name; the same one may come back after muster operator raft
add-peer. What would leave fewer control nodes alive than the rest needs for a
quorum is refused unless it is forced. To remove one that was removed is no
error. Whichever control node is asked, the request goes to the leader.`,
		Example: `  muster operator raft remove-peer c3`,
		Args:    words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Name = args[0]
			var response *clusterv1.RemovePeerResponse
			err := target.lead(cmd.Context(), func(c clusterv1.RaftClient) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), raftTimeout)
				defer cancel()
				response, err = c.RemovePeer(ctx, &request)
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"removed": request.Name, "already": response.Already}, false)
			}
			if response.Already {
				fmt.Fprintln(cmd.OutOrStdout(), request.Name, "was removed before")
				return nil
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
		Example: `  muster operator raft transfer-leadership`,
		Args:    cobra.NoArgs,
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
