package resource

import (
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// bootstrapped is an object that every cluster has.
type bootstrapped struct {
	kind *Kind
	want store.Object
	// revise makes a stored one what it should be, and says whether it was not.
	// It is given a copy. Nil: as long as it is there, it is as its users want it.
	revise func(current store.Object) bool
}

// bootstrapClasses are priority classes, and what shares out the API server.
func bootstrapClasses() []bootstrapped {
	var all []bootstrapped
	for _, class := range kube.SystemPriorityClasses() {
		all = append(all, bootstrapped{kind: PriorityClasses, want: class})
	}
	flow := kube.BootstrapFlowControl()
	for mandatory, levels := range map[bool][]*flowcontrolv1.PriorityLevelConfiguration{true: flow.Levels, false: flow.SuggestedLevels} {
		for _, level := range levels {
			all = append(all, flowControlObject(PriorityLevelConfigurations, level.DeepCopy(), mandatory,
				func(o *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfigurationSpec {
					return &o.Spec
				}))
		}
	}
	for mandatory, schemas := range map[bool][]*flowcontrolv1.FlowSchema{true: flow.Schemas, false: flow.SuggestedSchemas} {
		for _, schema := range schemas {
			all = append(all, flowControlObject(FlowSchemas, schema.DeepCopy(), mandatory,
				func(o *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaSpec { return &o.Spec }))
		}
	}
	return all
}

// flowControlObject follows upstream's rule: what is mandatory is as it is; what
// is suggested follows releases until an operator says otherwise, in an
// annotation, or by having changed it before there was one.
func flowControlObject[T store.Object, S any](kind *Kind, want T, mandatory bool, spec func(T) *S) bootstrapped {
	kube.Default(want)
	return bootstrapped{kind: kind, want: want, revise: func(current store.Object) bool {
		const key = flowcontrolv1.AutoUpdateAnnotationKey
		follows, err := strconv.ParseBool(current.GetAnnotations()[key])
		said := err == nil
		should := mandatory || said && follows || !said && current.GetGeneration() == 1
		revised := false
		if now := spec(current.(T)); should && !apiequality.Semantic.DeepEqual(now, spec(want)) {
			*now = *spec(want)
			revised = true
		}
		if !said || follows != should {
			annotations := current.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[key] = strconv.FormatBool(should)
			current.SetAnnotations(annotations)
			revised = true
		}
		return revised
	}}
}

// bootstrapWriters bounds the writes in flight of a new cluster's first term.
const bootstrapWriters = 16

// ensureAll creates what is missing of the objects and revises what is there.
func ensureAll(ctx context.Context, r *Registry, objects []bootstrapped) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(bootstrapWriters)
	for _, b := range objects {
		name := b.want.GetName()
		current, err := r.store.Table(b.kind.Spec).Get(ctx, "", name)
		switch {
		case err != nil:
			group.Go(func() error {
				_, err := r.Create(ctx, b.kind, "", b.want.DeepCopyObject().(store.Object), CreateOptions{})
				if err != nil && !apierrors.IsAlreadyExists(err) {
					return fmt.Errorf("bootstrap: %s %s: %w", b.kind.Singular, name, err)
				}
				return nil
			})
		case b.revise != nil && b.revise(current):
			group.Go(func() error {
				_, _, err := r.Update(ctx, b.kind, "", name, "", func(now store.Object) (store.Object, error) {
					b.revise(now)
					return now, nil
				}, UpdateOptions{})
				if err != nil && !apierrors.IsNotFound(err) {
					return fmt.Errorf("bootstrap: %s %s: %w", b.kind.Singular, name, err)
				}
				return nil
			})
		}
	}
	return group.Wait()
}
