package main

import (
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/control"
)

// recoverReport is what a stopped control node holds, as -o json prints it.
type recoverReport struct {
	Done          bool           `json:"done"`
	Node          string         `json:"node"`
	Address       string         `json:"address"`
	ClusterID     string         `json:"clusterID"`
	Voter         bool           `json:"voter"`
	Term          uint64         `json:"term"`
	LastIndex     uint64         `json:"lastIndex"`
	LastTerm      uint64         `json:"lastTerm"`
	SnapshotIndex uint64         `json:"snapshotIndex"`
	LastWritten   time.Time      `json:"lastWritten"`
	Revision      uint64         `json:"revision"`
	Kinds         []snapshotKind `json:"kinds"`
	Dropped       []raftPeer     `json:"dropped"`
}

func newRecoverCommand() *cobra.Command {
	var (
		dir, confirm string
		form         output
	)
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make the last surviving control node a cluster of its own, after the quorum is lost for good",
		Long: `Make the last surviving control node a cluster of its own, after the quorum is
lost for good. Where enough of the others can be brought back, do that instead:
nothing is lost then.

The node must be stopped. Without --confirm nothing is changed: the command
prints what the node holds, which members would be dropped and what may be
missing. With --confirm and the node's name it does it. Afterwards start the
node: it leads alone, and others join it as new nodes, by token.

What only the others had is lost. What this node has and they had not agreed to
yet becomes part of the cluster. So of several survivors take the one with the
newest entry: the highest last term, then the highest last index.

The other control nodes must never be started again with their old directories:
two of them would be the old cluster, beside this one. Wipe them.

  muster operator recover --dir /var/lib/muster
  muster operator recover --dir /var/lib/muster --confirm c2

The status is 1 when the directory is in use, damaged, or of a node that is
alone already.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
			r, err := control.Recover(dir, confirm, log)
			if err != nil {
				return err
			}
			report := newRecoverReport(r)
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), report, false)
			}
			return report.print(cmd.OutOrStdout(), dir)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "/var/lib/muster", "directory of the control node")
	cmd.Flags().StringVar(&confirm, "confirm", "", "name of the node, to do it")
	form.add(cmd.Flags())
	return cmd
}

func newRecoverReport(r *control.Recovery) *recoverReport {
	report := &recoverReport{
		Done: r.Done, Node: r.Name, Address: r.Address, ClusterID: r.Cluster, Voter: r.Voter,
		Term: r.Term, LastIndex: r.LastIndex, LastTerm: r.LastTerm, SnapshotIndex: r.SnapshotIndex,
		LastWritten: r.LastWritten.UTC().Truncate(time.Second), Revision: r.Revision,
		Kinds: []snapshotKind{}, Dropped: []raftPeer{},
	}
	for _, kind := range r.Kinds {
		report.Kinds = append(report.Kinds, snapshotKind(kind))
	}
	for _, s := range r.Dropped {
		report.Dropped = append(report.Dropped, raftPeer{Name: s.Name, Address: s.Address, State: "dropped", Voter: s.Voter})
	}
	return report
}

func (r *recoverReport) print(to io.Writer, dir string) error {
	fmt.Fprintf(to, "node %s at %s, of cluster %s\n", r.Node, r.Address, r.ClusterID)
	fmt.Fprintf(to, "newest entry %d of term %d (the node has heard of term %d), last written %s\n",
		r.LastIndex, r.LastTerm, r.Term, r.LastWritten.Format(time.RFC3339))
	fmt.Fprintf(to, "state at revision %d:\n\n", r.Revision)
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "KIND\tCOUNT\tBYTES")
	for _, kind := range r.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%d\n", kind.Name, kind.Count, kind.Bytes)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verb, become := "would be dropped", "would become"
	if r.Done {
		verb, become = "were dropped", "have become"
	}
	fmt.Fprintf(to, "\nmembers that %s:\n", verb)
	for _, s := range r.Dropped {
		fmt.Fprintf(to, "  %s at %s\n", s.Name, s.Address)
	}
	fmt.Fprintln(to)
	if !r.Voter {
		fmt.Fprintln(to, "This node did not vote: the others may have decided much that it never got.")
	}
	fmt.Fprintln(to, "What only they had is lost.")
	if uncommitted := r.LastIndex - min(r.LastIndex, r.SnapshotIndex); uncommitted > 0 {
		fmt.Fprintf(to, "Of the newest %d entries of this node the last few may not have been agreed on; all %s part of the cluster.\n", uncommitted, become)
	}
	fmt.Fprintln(to, "The others must never be started again with their old directories: wipe them.")
	if r.Done {
		fmt.Fprintf(to, "\n%s is a cluster of its own now. Start it, make a token (muster token create --role server),\nand let new control nodes join.\n", r.Node)
	} else {
		fmt.Fprintf(to, "\nNothing was changed. To do it: muster operator recover --dir %s --confirm %s\n", dir, r.Node)
	}
	return nil
}
