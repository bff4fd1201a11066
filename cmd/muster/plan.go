package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
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

The objects go through an API server as they would with muster apply or kubectl
apply --server-side: defaults, admission, webhooks and validation, in a copy of the cluster
that nobody else sees, so one may be the namespace, definition, quota or priority class of
the next. Webhooks are told of a dry run. Where pods would go, and
who would be evicted for them, the scheduler works out in a copy of the cluster as
it is. It does so for Pods, Deployments, ReplicaSets, ReplicationControllers, StatefulSets,
DaemonSets, Jobs, and the next run of CronJobs.

Rollouts are gone through step by step, as the controllers would: with as many pods beside
the old ones, or missing, as the object allows. Each pod that has a place is taken to be ready
soon, so what is said to stop a rollout is that there is no room. Claims of a StatefulSet
that are not there yet get the volumes that their class promises.

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

// plan goes through the objects in a copy of the cluster, so that they may need each
// other: one of them may be the namespace of the next.
func (m *manifests) plan(ctx context.Context, target *operatorFlags) (*plan, error) {
	list, err := m.read(target)
	if err != nil {
		return nil, err
	}
	var p *plan
	var failed error // of the objects, not of the node that was asked
	err = target.leader(ctx, func(conn *grpc.ClientConn) error {
		ctx, end := context.WithCancel(ctx)
		defer end()
		copied, err := rehearse(ctx, conn)
		if err != nil {
			return err
		}
		m.config.Wrap(func(http.RoundTripper) http.RoundTripper { return copied })
		p, failed = m.planIn(ctx, copied, clusterv1.NewSchedulerClient(conn), list)
		return nil
	})
	if err == nil {
		err = failed
	}
	return p, err
}

func (m *manifests) planIn(ctx context.Context, copied *rehearsal, scheduler clusterv1.SchedulerClient, list []*manifest) (*plan, error) {
	p := &plan{Revision: copied.revision}
	request := &clusterv1.PlanPodsRequest{}
	var asked []int // which of p.Objects the request is about
	for _, it := range list {
		if err := m.find(it); err != nil {
			return nil, err
		}
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
		object, err := it.planned(ctx, then)
		if err != nil {
			return nil, err
		}
		request.Objects, asked = append(request.Objects, object), append(asked, len(p.Objects)-1)
	}
	if len(asked) == 0 {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	response, err := scheduler.PlanPods(ctx, request)
	if err != nil {
		return nil, err
	}
	for _, g := range response.Groups {
		p.Objects[asked[g.Object]].Pods = newPlannedPods(g)
	}
	return p, nil
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
