package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func newApplyCommand() *cobra.Command {
	var (
		target   operatorFlags
		form     output
		how      manifests
		revision uint64
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Apply files, if need be only if nothing has changed since they were planned",
		Long: `Apply files, as kubectl apply --server-side does.

With --check-revision, which muster plan prints, nothing is applied if somebody has
changed one of the objects since, made or removed it; what controllers write into
their status is no change. What is changed in the very moment is noticed too.`,
		Example: `  muster apply -f web.yaml
  muster apply -f web.yaml --check-revision 4711`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := how.read(&target)
			if err != nil {
				return err
			}
			if revision > 0 {
				for _, it := range list {
					if err := how.find(it); defined(list, it) && meta.IsNoMatchError(err) {
						continue // nothing serves it yet, so it is not there
					} else if err != nil {
						return err
					}
					if _, err := it.unchanged(cmd.Context(), revision); err != nil {
						return err
					}
				}
			}
			applied := []plannedObject{}
			for _, it := range list {
				if err := how.findOnce(cmd.Context(), list, it); err != nil {
					return err
				}
				action, err := it.applyChecked(cmd.Context(), &how, revision)
				if err != nil {
					return err
				}
				if form != outputJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", it, map[string]string{"create": "created", "change": "changed", "none": "is as it was"}[action])
				}
				applied = append(applied, plannedObject{Kind: it.given.GetKind(), Namespace: it.Namespace, Name: it.Name, Action: action})
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"objects": applied}, false)
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&revision, "check-revision", 0, "apply only if the objects are as they were at this revision; 0: in any case")
	how.add(cmd.Flags())
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

// definedTimeout bounds how long a definition that was just applied may take to be served.
const definedTimeout = 10 * time.Second

// findOnce is find for an object that another in the list may have defined a moment ago.
func (m *manifests) findOnce(ctx context.Context, list []*manifest, it *manifest) error {
	ctx, cancel := context.WithTimeout(ctx, definedTimeout)
	defer cancel()
	for {
		err := m.find(it)
		if !meta.IsNoMatchError(err) || !defined(list, it) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// defined says whether the list has the definition of an object's kind.
func defined(list []*manifest, it *manifest) bool {
	gvk := it.given.GroupVersionKind()
	return slices.ContainsFunc(list, func(crd *manifest) bool {
		group, _, _ := unstructured.NestedString(crd.given.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(crd.given.Object, "spec", "names", "kind")
		return crd.given.GetKind() == "CustomResourceDefinition" && group == gvk.Group && kind == gvk.Kind
	})
}

// unchanged answers the object as it is now, nil if it is not there, or says that it
// is not as it was at the revision.
func (m *manifest) unchanged(ctx context.Context, revision uint64) (*unstructured.Unstructured, error) {
	live, err := m.live(ctx)
	if err != nil {
		return nil, err
	}
	before, err := m.at(ctx, revision)
	if err != nil {
		return nil, err
	}
	switch {
	case (live == nil) != (before == nil) || live != nil && live.GetUID() != before.GetUID() || !sameWanted(live, before):
		return nil, fmt.Errorf("%s has been changed since revision %d: plan again", m, revision)
	}
	return live, nil
}

// applyTries bounds how often an object is applied anew because its status has
// changed meanwhile.
const applyTries = 10

func (m *manifest) applyChecked(ctx context.Context, how *manifests, revision uint64) (action string, err error) {
	for try := 1; ; try++ {
		var live *unstructured.Unstructured
		version := ""
		if revision > 0 {
			live, err = m.unchanged(ctx, revision)
		} else {
			live, err = m.live(ctx)
		}
		if err != nil {
			return "", err
		}
		if revision > 0 && live != nil {
			version = live.GetResourceVersion()
		}
		then, err := m.apply(ctx, how, false, version)
		switch {
		case version != "" && apierrors.IsConflict(err) && try < applyTries:
			continue // if it was the status; a conflict of managers comes again
		case err != nil:
			return "", err
		case live == nil:
			return "create", nil
		case sameWanted(live, then):
			return "none", nil
		}
		return "change", nil
	}
}
