package operator

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// finalizer holds a widget until its receipt is written.
const finalizer = "operator.example.org/receipt"

// reconciler keeps a config map for each widget, and leaves a receipt of those
// that are gone.
type reconciler struct {
	client.Client
	name string // the manager's
}

func (r *reconciler) register(m ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(m).For(&Widget{}).Owns(&corev1.ConfigMap{}).
		WithOptions(controller.Options{SkipNameValidation: ptr.To(true)}). // two managers in one process
		Complete(r)
}

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	widget := &Widget{}
	if err := r.Get(ctx, request.NamespacedName, widget); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !widget.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.finish(ctx, widget)
	}
	if controllerutil.AddFinalizer(widget, finalizer) {
		if err := r.Update(ctx, widget); err != nil {
			return ctrl.Result{}, ignoreConflict(err)
		}
	}
	owned := corev1apply.ConfigMap(widget.Name, widget.Namespace).
		WithData(map[string]string{"text": strings.Repeat(widget.Spec.Text, widget.Spec.Copies)}).
		WithOwnerReferences(metav1apply.OwnerReference().WithAPIVersion(groupVersion.String()).WithKind("Widget").
			WithName(widget.Name).WithUID(widget.UID).WithController(true).WithBlockOwnerDeletion(true))
	if err := r.Apply(ctx, owned, client.FieldOwner("operator"), client.ForceOwnership); err != nil {
		return ctrl.Result{}, fmt.Errorf("apply: %w", err)
	}
	if widget.Status.ObservedGeneration == widget.Generation {
		return ctrl.Result{}, nil
	}
	widget.Status = WidgetStatus{ObservedGeneration: widget.Generation, By: r.name}
	return ctrl.Result{}, ignoreConflict(r.Status().Update(ctx, widget))
}

// finish does what must be done before a widget goes.
func (r *reconciler) finish(ctx context.Context, widget *Widget) error {
	if !controllerutil.ContainsFinalizer(widget, finalizer) {
		return nil
	}
	receipt := corev1apply.ConfigMap("receipt-"+widget.Name, widget.Namespace).WithData(map[string]string{"by": r.name})
	if err := r.Apply(ctx, receipt, client.FieldOwner("operator"), client.ForceOwnership); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	before := widget.DeepCopyObject().(*Widget)
	controllerutil.RemoveFinalizer(widget, finalizer)
	return client.IgnoreNotFound(r.Patch(ctx, widget, client.MergeFrom(before)))
}

// ignoreConflict: the change that was lost against brings its own request.
func ignoreConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}
