package resource

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/musterhq/muster/control/store"
)

// disruptedPodsMax bounds the evictions of a budget that its controller has not
// noticed yet: upstream's.
const disruptedPodsMax = 2000

var (
	evictionKind = policyv1.SchemeGroupVersion.WithKind("Eviction")
	// budgetResource is what upstream calls budgets in refusals.
	budgetResource = schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudget"}
)

// Evict serves pods/eviction: the pod is deleted if the budget that covers it
// has a disruption left, and takes that. Both are one transaction: neither an
// interruption nor a second eviction at the same time can spend a disruption
// twice, or spend it for nothing.
func (r *Registry) Evict(ctx context.Context, ns, name string, eviction *policyv1.Eviction, options CreateOptions) error {
	ctx = genericrequest.WithNamespace(ctx, ns)
	if eviction.Name != name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(ns, eviction); err != nil {
		return err
	}
	deletion := &metav1.DeleteOptions{}
	if eviction.DeleteOptions != nil {
		deletion = eviction.DeleteOptions.DeepCopy()
	}
	if unsafe := deletion.IgnoreStoreReadErrorWithClusterBreakingPotential; unsafe != nil && *unsafe {
		path := field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential")
		return apierrors.NewInvalid(evictionKind.GroupKind(), name, field.ErrorList{
			field.Invalid(path, true, "can not be set for pod eviction, try after removing the option"),
		})
	}
	if options.DryRun {
		deletion.DryRun = []string{metav1.DryRunAll}
	}
	dryRun := len(deletion.DryRun) > 0
	attributes := &Attributes{
		Operation: Create, Kind: Pods, Namespace: ns, Name: name, Subresource: "eviction",
		As: evictionKind, Object: eviction, DryRun: dryRun, User: requester(ctx),
		FieldManager: options.FieldManager, FieldValidation: options.FieldValidation,
	}
	if err := r.admission.Admit(ctx, attributes); err != nil {
		return err
	}
	if err := r.admission.Validate(ctx, attributes); err != nil {
		return err
	}
	// Budgets are looked for, and one that this replica does not have yet could
	// not be guarded: the state must be current.
	return r.settle(ctx, Pods, ns, name, true, func(old store.Object) (bool, error) {
		if old == nil {
			return false, Pods.apiError(store.ErrNotFound, name)
		}
		pod, now := old.(*corev1.Pod), time.Now()
		var writes []store.Write
		if !needsNoBudget(pod) {
			budget, err := r.spend(ctx, pod, now)
			if err != nil {
				return false, err
			}
			writes = append(writes, budget...)
		}
		write, err := planEviction(ctx, pod, deletion.DeepCopy(), "EvictionByEvictionAPI", "Eviction API: evicting")
		if err != nil || dryRun {
			return true, err
		}
		_, err = r.store.Txn(ctx, append(writes, write))
		return true, Pods.written(err, name)
	})
}

// planEviction is the deletion of a pod that says why it ends.
func planEviction(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions, reason, message string) (store.Write, error) {
	guard, err := revision(pod)
	if err != nil {
		return store.Write{}, err
	}
	planned, what, err := Pods.planDeletion(ctx, pod, options)
	if err != nil {
		return store.Write{}, err
	}
	if what == remove {
		return store.Write{Verb: store.Delete, Spec: store.Pods, Namespace: pod.Namespace, Name: pod.Name, Guard: guard}, nil
	}
	going := planned.DeepCopyObject().(*corev1.Pod)
	setCondition(&going.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	}, time.Now())
	return store.Write{Verb: store.Update, Spec: store.Pods, Object: going, Guard: guard}, nil
}

// needsNoBudget says that the pod serves nobody: it has ended, has not begun, or
// is on its way out.
func needsNoBudget(pod *corev1.Pod) bool {
	return podFinished(pod) || pod.Status.Phase == corev1.PodPending || pod.DeletionTimestamp != nil
}

// spend finds the budget that covers a pod and takes a disruption from it. There
// is nothing to write if no budget does, or if the pod is not ready and its
// budget does not count it.
func (r *Registry) spend(ctx context.Context, pod *corev1.Pod, now time.Time) ([]store.Write, error) {
	budgets, _, err := store.Of[*policyv1.PodDisruptionBudget](r.store, store.PodDisruptionBudgets).List(ctx, store.ListOptions{Namespace: pod.Namespace})
	if err != nil {
		return nil, err
	}
	budgets = slices.DeleteFunc(budgets, func(b *policyv1.PodDisruptionBudget) bool {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		return err != nil || !selector.Matches(labels.Set(pod.Labels))
	})
	switch len(budgets) {
	case 0:
		return nil, nil
	case 1:
	default:
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	budget := budgets[0]
	guard, err := revision(budget)
	if err != nil {
		return nil, err
	}
	if !podReady(pod) {
		status, policy := budget.Status, budget.Spec.UnhealthyPodEvictionPolicy
		if policy != nil && *policy == policyv1.AlwaysAllow || status.CurrentHealthy >= status.DesiredHealthy && status.DesiredHealthy > 0 {
			return []store.Write{{Verb: store.Check, Spec: store.PodDisruptionBudgets, Namespace: budget.Namespace, Name: budget.Name, Guard: guard}}, nil
		}
	}
	if err := takeDisruption(budget, pod.Name, now); err != nil {
		return nil, err
	}
	return []store.Write{{Verb: store.Update, Spec: store.PodDisruptionBudgets, Object: budget, Guard: guard}}, nil
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// takeDisruption takes one from a budget's status, or says why there is none.
// The budget's controller learns of the pod there, before it sees it go.
func takeDisruption(budget *policyv1.PodDisruptionBudget, pod string, now time.Time) error {
	status := &budget.Status
	switch {
	case status.ObservedGeneration < budget.Generation:
		return tooManyDisruptions(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget.Name))
	case status.DisruptionsAllowed < 0:
		return noDisruptions(budget.Name, "pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(status.DisruptedPods) > disruptedPodsMax:
		return noDisruptions(budget.Name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
			"too many pending evictions not confirmed by PDB controller")
	case status.DisruptionsAllowed == 0:
		return tooManyDisruptions(0, whyNoDisruption(budget))
	}
	status.DisruptionsAllowed--
	if status.DisruptionsAllowed == 0 {
		poddisruptionbudget.UpdateDisruptionAllowedCondition(budget)
	}
	if status.DisruptedPods == nil {
		status.DisruptedPods = map[string]metav1.Time{}
	}
	status.DisruptedPods[pod] = metav1.NewTime(now)
	return nil
}

// whyNoDisruption is what a budget that is used up tells who wants one more.
func whyNoDisruption(budget *policyv1.PodDisruptionBudget) string {
	status := &budget.Status
	why := meta.FindStatusCondition(status.Conditions, policyv1.DisruptionAllowedCondition)
	if why != nil && (why.Status != metav1.ConditionFalse || why.Message == "") {
		why = nil
	}
	switch {
	case why != nil && why.Reason == policyv1.SyncFailedReason:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", budget.Name, why.Message)
	case status.CurrentHealthy <= status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, status.DesiredHealthy, status.CurrentHealthy)
	case why != nil:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", budget.Name, why.Reason, why.Message)
	}
	return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", budget.Name)
}

// tooManyDisruptions asks the client to come back. retryAfter 0: when it likes.
func tooManyDisruptions(retryAfter int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

// noDisruptions refuses for good: the budget itself is in disorder.
func noDisruptions(budget, reason, cause string) error {
	err := apierrors.NewForbidden(budgetResource, budget, errors.New(reason))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: %s", budget, cause),
	})
	return err
}
