package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Statuses that muster plan ends with, for scripts.
const (
	planChanges = 1
	planFailed  = 2
)

// plan is what muster plan -o json prints.
type plan struct {
	// Revision is of the state that was planned on, for --check-revision.
	Revision uint64          `json:"revision"`
	Changes  bool            `json:"changes"`
	Objects  []plannedObject `json:"objects"`
}

type plannedObject struct {
	Kind      string        `json:"kind"`
	Namespace string        `json:"namespace,omitempty"`
	Name      string        `json:"name"`
	Action    string        `json:"action"` // create, change or none
	Fields    []fieldChange `json:"fields,omitempty"`
	Pods      *plannedPods  `json:"pods,omitempty"`
}

type plannedPods struct {
	Present uint32            `json:"present"`
	Leaving uint32            `json:"leaving"`
	Placed  map[string]uint32 `json:"placed"` // by node
	Waiting uint32            `json:"waiting"`
	Why     string            `json:"why,omitempty"`
	Evicted []explainedVictim `json:"evicted,omitempty"`
}

func newPlanCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
		how    manifests
	)
	cmd := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Say what applying files would change, and where pods would go; change nothing",
		Long: `Say what applying files would change, and where pods would go; change nothing.

The objects go through the API server as they would with muster apply or kubectl
apply --server-side: defaults, admission, webhooks and validation. Where pods would go, and
who would be evicted for them, the scheduler works out in a copy of the cluster as
it is: all new pods at once, those that they replace gone. It does so for Pods, Deployments,
ReplicaSets, ReplicationControllers, StatefulSets (without their own claims) and Jobs.

The status is 0 if nothing would change, 1 if something would, and 2 if it can't be
said. muster apply --check-revision applies a plan only if it still holds.`,
		Example: `  muster plan -f shop/
  muster plan -f web.yaml -o json | jq .revision
  muster apply -f web.yaml --check-revision 4711`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := how.plan(cmd.Context(), &target)
			if err == nil && form == outputJSON {
				err = printJSON(cmd.OutOrStdout(), p, false)
			} else if err == nil {
				err = p.print(cmd.OutOrStdout())
			}
			switch {
			case err != nil:
				return exitStatus{planFailed, err}
			case p.Changes:
				return exitStatus{planChanges, errReported}
			}
			return nil
		},
	}
	how.add(cmd.Flags())
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func (m *manifests) plan(ctx context.Context, target *operatorFlags) (*plan, error) {
	list, err := m.read(target)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	request := &clusterv1.PlanPodsRequest{}
	var asked []int // objects that the groups are of
	if p.Revision, err = revisionNow(ctx, list); err != nil {
		return nil, err
	}
	for _, it := range list {
		live, err := it.live(ctx)
		if err != nil {
			return nil, err
		}
		then, err := it.apply(ctx, m, true, "")
		if err != nil {
			return nil, err
		}
		o := plannedObject{Kind: it.given.GetKind(), Namespace: it.Namespace, Name: it.Name, Action: "none"}
		switch {
		case live == nil:
			o.Action = "create"
		case !sameWanted(live, then):
			o.Action = "change"
			o.Fields = difference("", wanted(live), wanted(then))
		}
		p.Changes = p.Changes || o.Action != "none"
		p.Objects = append(p.Objects, o)
		if o.Action == "none" {
			continue
		}
		group, err := it.podsOf(ctx, live, then)
		if err != nil {
			return nil, err
		}
		if group != nil {
			request.Groups, asked = append(request.Groups, group), append(asked, len(p.Objects)-1)
		}
	}
	if len(asked) == 0 {
		return p, nil
	}
	var response *clusterv1.PlanPodsResponse
	err = target.leader(ctx, func(conn *grpc.ClientConn) (err error) {
		ctx, cancel := context.WithTimeout(ctx, planTimeout)
		defer cancel()
		response, err = clusterv1.NewSchedulerClient(conn).PlanPods(ctx, request)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, g := range response.Groups {
		p.Objects[asked[i]].Pods = &plannedPods{
			Present: g.Present, Leaving: g.Leaving, Placed: g.Placed, Waiting: g.Waiting, Why: g.Why, Evicted: newExplainedVictims(g.Evicted),
		}
	}
	return p, nil
}

// revisionNow is the revision of the state before anything is looked at.
func revisionNow(ctx context.Context, list []*manifest) (uint64, error) {
	if len(list) == 0 {
		return 0, nil
	}
	raw, err := list[0].request(list[0].Client.Get()).Param("limit", "1").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", list[0], err)
	}
	var page struct {
		Metadata struct {
			ResourceVersion uint64 `json:"resourceVersion,string"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return 0, fmt.Errorf("%s: %w", list[0], err)
	}
	return page.Metadata.ResourceVersion, nil
}

// signs begin the line of an object.
var signs = map[string]string{"create": "+", "change": "~", "none": " "}

func (p *plan) print(out io.Writer) error {
	var b strings.Builder
	counts := map[string]int{}
	for _, o := range p.Objects {
		counts[o.Action]++
		name := o.Name
		if o.Namespace != "" {
			name = o.Namespace + "/" + name
		}
		fmt.Fprintf(&b, "%s %s %s\n", signs[o.Action], o.Kind, name)
		for _, change := range o.Fields {
			fmt.Fprintf(&b, "    %s\n", change)
		}
		o.Pods.print(&b)
	}
	fmt.Fprintf(&b, "\n%d to create, %d to change, %d as they are\n", counts["create"], counts["change"], counts["none"])
	if p.Changes {
		fmt.Fprintf(&b, "to apply just this: muster apply --check-revision %d -f ...\n", p.Revision)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// placesMost is how many nodes a line names.
const placesMost = 10

func (p *plannedPods) print(b *strings.Builder) {
	if p == nil {
		return
	}
	var places []string
	var placed uint32
	for _, node := range slices.Sorted(maps.Keys(p.Placed)) {
		placed += p.Placed[node]
		places = append(places, fmt.Sprintf("%d on %s", p.Placed[node], node))
	}
	fmt.Fprintf(b, "    pods: %d stay, %d go, %d come", p.Present, p.Leaving, placed+p.Waiting)
	if len(places) > 0 {
		fmt.Fprintf(b, ": %s", some(places, placesMost))
	}
	b.WriteByte('\n')
	if p.Waiting > 0 {
		fmt.Fprintf(b, "    %d of them would wait: %s\n", p.Waiting, p.Why)
	}
	if len(p.Evicted) > 0 {
		var names []string
		for _, v := range p.Evicted {
			names = append(names, fmt.Sprintf("%s/%s (priority %d)", v.Namespace, v.Name, v.Priority))
		}
		fmt.Fprintf(b, "    evicted for them: %s\n", some(names, placesMost))
	}
}
