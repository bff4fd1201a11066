package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// explainTimeout bounds an explanation, which looks at every node.
const explainTimeout = 10 * time.Second

func newExplainCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "explain",
		Short: "Say why something is as it is (fields of kinds: muster kubectl explain)",
	}, newExplainPodCommand())
}

func newExplainPodCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.ExplainPodRequest
	)
	cmd := &cobra.Command{
		Use:   "pod NAME",
		Short: "Say why a pod waits, or is where it is: each node, what refuses it there, what would help",
		Long: `Say why a pod waits, or is where it is.

Every node is asked by every filter, as things are now: which refuse it and why,
what would have to be otherwise, and how those that could take it score. For a
pod that fits nowhere it says whom preemption would evict, or why it helps
nothing. The text groups nodes that say the same; -o json lists each of them.
Nothing is changed. The leader answers, whichever control node is asked.`,
		Example: `  muster explain pod web-7f9c -n shop
  muster explain pod web-7f9c -n shop -o json | jq '.nodes[] | select(.name == "n7")'`,
		Args: words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Name = args[0]
			var r *clusterv1.ExplainPodResponse
			err := target.leader(cmd.Context(), func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), explainTimeout)
				defer cancel()
				r, err = clusterv1.NewSchedulerClient(conn).Explain(ctx, &request, grpc.MaxCallRecvMsgSize(64<<20))
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), newExplainedPod(r), false)
			}
			return printExplanation(cmd.OutOrStdout(), r)
		},
	}
	cmd.Flags().StringVarP(&request.Namespace, "namespace", "n", "default", "namespace of the pod")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

// states are what a pod's state means to its owner.
var states = map[string]string{
	"bound":         "is on %s",
	"binding":       "goes to %s, which is being written down",
	"finished":      "has ended or is being deleted: nobody looks for a node for it",
	"gated":         "waits for its scheduling gates to be taken away: %s",
	"foreign":       "is left to another scheduler: %s",
	"ready":         "waits for its turn",
	"backing off":   "waits a moment, because writing down its node has failed",
	"unschedulable": "waits: no node can take it",
	"preempting":    "waits for pods to leave %s, where room is made for it",
}

func printExplanation(out io.Writer, r *clusterv1.ExplainPodResponse) error {
	said := states[r.State]
	if strings.Contains(said, "%s") {
		what := map[string]string{"gated": strings.Join(r.Gates, ", "), "foreign": r.SchedulerName, "preempting": r.NominatedNode}[r.State]
		said = fmt.Sprintf(said, cmp.Or(what, r.Node))
	}
	fmt.Fprintf(out, "pod %s/%s (priority %d) %s\n", r.Namespace, r.Name, r.Priority, said)
	if p := newSchedulerPause(r.Pause); p != nil {
		fmt.Fprintf(out, "scheduling is paused %s\n", p)
	}
	var fit, refused []*clusterv1.ExplainedNode
	needs := map[string][]string{}
	for _, n := range r.Nodes {
		if len(n.Refusals) == 0 {
			fit = append(fit, n)
			continue
		}
		refused = append(refused, n)
		needs[n.Name] = n.Needs
	}
	fmt.Fprintf(out, "\n%d of %d nodes could take it now\n", len(fit), len(r.Nodes))
	if err := printRefusals(out, refused); err != nil {
		return err
	}
	if len(r.Closest) > 0 && len(fit) == 0 {
		fmt.Fprintln(out, "\nit would fit, with least to change:")
		for _, name := range r.Closest {
			fmt.Fprintf(out, "  %s: with %s\n", name, strings.Join(needs[name], "; "))
		}
	}
	if r.Preemption != nil && len(fit) == 0 {
		printPreemption(out, r.Preemption)
	}
	return printScores(out, fit, r.Node)
}

// printRefusals groups nodes by what refuses them, the most common first. A node is
// counted for every filter that does; the pod's condition names the first only.
func printRefusals(out io.Writer, nodes []*clusterv1.ExplainedNode) error {
	if len(nodes) == 0 {
		return nil
	}
	type reason struct{ filter, text string }
	groups := map[reason][]string{}
	for _, n := range nodes {
		for _, refusal := range n.Refusals {
			for _, text := range refusal.Reasons {
				k := reason{refusal.Filter, text}
				groups[k] = append(groups[k], n.Name)
			}
		}
	}
	var order []reason
	for k := range groups {
		order = append(order, k)
	}
	slices.SortFunc(order, func(a, b reason) int {
		return cmp.Or(cmp.Compare(len(groups[b]), len(groups[a])), cmp.Compare(a.filter, b.filter), cmp.Compare(a.text, b.text))
	})
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NODES\tFILTER\tREASON\tWHICH")
	for _, k := range order {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", len(groups[k]), k.filter, k.text, some(groups[k], 4))
	}
	return w.Flush()
}

func printPreemption(out io.Writer, p *clusterv1.ExplainedPreemption) {
	if p.Node == "" {
		fmt.Fprintf(out, "\nevictions: none, %s\n", p.Why)
		return
	}
	var victims []string
	for _, v := range p.Victims {
		victims = append(victims, fmt.Sprintf("%s/%s (priority %d)", v.Namespace, v.Name, v.Priority))
	}
	fmt.Fprintf(out, "\nevictions that would help: on %s, %s", p.Node, some(victims, 8))
	if p.Violations > 0 {
		fmt.Fprintf(out, "; %d of them against a disruption budget", p.Violations)
	}
	fmt.Fprintln(out)
}

// scoresMost is how many nodes the text lists with their scores.
const scoresMost = 10

func printScores(out io.Writer, fit []*clusterv1.ExplainedNode, at string) error {
	if len(fit) == 0 {
		return nil
	}
	slices.SortStableFunc(fit, func(a, b *clusterv1.ExplainedNode) int { return cmp.Compare(b.Total, a.Total) })
	shown := fit[:min(len(fit), scoresMost)]
	if i := slices.IndexFunc(fit, func(n *clusterv1.ExplainedNode) bool { return n.Name == at }); i >= len(shown) {
		shown = append(slices.Clone(shown), fit[i])
	}
	fmt.Fprintln(out, "\nscores of those that could, weighted:")
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprint(w, "NODE\tTOTAL")
	for _, s := range shown[0].Scores {
		fmt.Fprintf(w, "\t%s", s.Name)
	}
	fmt.Fprintln(w)
	for _, n := range shown {
		name := n.Name
		if name == at {
			name += " (its node)"
		}
		fmt.Fprintf(w, "%s\t%d", name, n.Total)
		for _, s := range n.Scores {
			fmt.Fprintf(w, "\t%d", s.Weighted)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(shown) < len(fit) {
		fmt.Fprintf(out, "and %d more\n", len(fit)-len(shown))
	}
	return nil
}

// some lists the first few and says how many more there are.
func some(list []string, most int) string {
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}
