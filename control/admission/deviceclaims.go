package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// deviceClaims keeps administrators' access to devices to namespaces that are
// labelled for it, and what a claim was given to those who give it: the scheduler
// allocates, and a driver says how its own devices are. Upstream counts what it
// refuses among what is wrong with the object, and so do the answers.
type deviceClaims struct {
	store      *store.Store
	authorizer *auth.Authorizer
}

func (deviceClaims) Admit(context.Context, *resource.Attributes) error { return nil }

func (d deviceClaims) Validate(ctx context.Context, a *resource.Attributes) error {
	switch {
	case a.Kind == resource.ResourceClaims && a.Subresource == "" && a.Operation == resource.Create:
		return d.adminRequests(ctx, a, a.Object.(*resourcev1.ResourceClaim).Spec.Devices.Requests)
	case a.Kind == resource.ResourceClaimTemplates && a.Operation == resource.Create:
		return d.adminRequests(ctx, a, a.Object.(*resourcev1.ResourceClaimTemplate).Spec.Spec.Devices.Requests)
	case a.Kind == resource.ResourceClaims && a.Subresource == "status" && a.Operation == resource.Update:
		return d.status(ctx, a, &a.Object.(*resourcev1.ResourceClaim).Status, &a.OldObject.(*resourcev1.ResourceClaim).Status)
	}
	return nil
}

// adminRequests looks at new claims only: what they ask for never changes.
func (d deviceClaims) adminRequests(ctx context.Context, a *resource.Attributes, requests []resourcev1.DeviceRequest) error {
	at := slices.IndexFunc(requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && r.Exactly.AdminAccess != nil && *r.Exactly.AdminAccess
	})
	if at < 0 {
		return nil
	}
	return d.administrators(ctx, a, field.NewPath("spec", "devices", "requests").Index(at).Child("adminAccess"))
}

// administrators is nil in a namespace for them.
func (d deviceClaims) administrators(ctx context.Context, a *resource.Attributes, path *field.Path) error {
	ns, err := find[*corev1.Namespace](ctx, d.store, store.Namespaces, "", a.Namespace)
	switch {
	case errors.Is(err, errLookup):
		return err
	case err != nil:
		return wrong(a, field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err)))
	case ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true":
		return wrong(a, field.Forbidden(path, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey)))
	}
	return nil
}

func (d deviceClaims) status(ctx context.Context, a *resource.Attributes, status, old *resourcev1.ResourceClaimStatus) error {
	if at := adminResult(status); at >= 0 && adminResult(old) < 0 {
		if err := d.administrators(ctx, a, field.NewPath("status", "allocation", "devices", "results").Index(at).Child("adminAccess")); err != nil {
			return err
		}
	}
	if a.User == nil {
		return nil
	}
	verb := "update"
	if a.Patch {
		verb = "patch"
	}
	if !equality.Semantic.DeepEqual(status.Allocation, old.Allocation) || !equality.Semantic.DeepEqual(status.ReservedFor, old.ReservedFor) {
		refusal, err := d.refusal(ctx, a, auth.Attributes{Verb: verb, Subresource: resourcev1.SubresourceBinding})
		if err != nil {
			return err
		}
		if refusal != nil {
			return wrong(a, field.Forbidden(field.NewPath("status", "allocation"),
				fmt.Sprintf("changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=%q permission: %s", verb, refusal)))
		}
	}
	if status.Allocation == nil {
		return nil // what drivers said goes with the devices
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + verb}
	if runsOn(a.User, allocatedNode(status.Allocation)) {
		verbs = slices.Insert(verbs, 0, resourcev1.VerbPrefixAssociatedNode+verb)
	}
	for _, driver := range changedDrivers(status.Devices, old.Devices) {
		var first error
		allowed := false
		for _, verb := range verbs {
			refusal, err := d.refusal(ctx, a, auth.Attributes{Verb: verb, Subresource: resourcev1.SubresourceDriver, Namespace: a.Namespace, Name: driver})
			if err != nil {
				return err
			}
			if refusal == nil {
				allowed = true
				break
			}
			if first == nil {
				first = refusal
			}
		}
		if !allowed {
			return wrong(a, field.Forbidden(field.NewPath("status", "devices"),
				fmt.Sprintf("changing status.devices requires resource=\"resourceclaims/driver\", verb=\"%s\" permission: %s", verbs, first)))
		}
	}
	return nil
}

// refusal is why the user may not do what is asked, which is about claims; err
// that nobody could say.
func (d deviceClaims) refusal(ctx context.Context, a *resource.Attributes, asked auth.Attributes) (refusal, err error) {
	asked.User, asked.Group, asked.Version, asked.Resource = a.User, resourcev1.GroupName, a.GroupVersionResource().Version, "resourceclaims"
	decision, err := d.authorizer.Authorize(ctx, asked)
	if err != nil || decision.Allowed {
		return nil, err
	}
	return apierrors.NewForbidden(a.Kind.Spec.Resource, asked.Name, errors.New(auth.ForbiddenMessage(asked, decision.Reason()))), nil
}

// wrong is the answer to an object that must not be like this.
func wrong(a *resource.Attributes, what *field.Error) error {
	name := a.Name
	if name == "" {
		name = a.Object.(store.Object).GetName()
	}
	return apierrors.NewInvalid(a.GroupVersionKind().GroupKind(), name, field.ErrorList{what})
}

// adminResult is which device was given with an administrator's access, or -1.
func adminResult(status *resourcev1.ResourceClaimStatus) int {
	if status.Allocation == nil {
		return -1
	}
	return slices.IndexFunc(status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool {
		return r.AdminAccess != nil && *r.AdminAccess
	})
}

// changedDrivers are those of devices of which something else is said than before.
func changedDrivers(devices, old []resourcev1.AllocatedDeviceStatus) []string {
	same := func(d resourcev1.AllocatedDeviceStatus) func(resourcev1.AllocatedDeviceStatus) bool {
		return func(other resourcev1.AllocatedDeviceStatus) bool { return equality.Semantic.DeepEqual(d, other) }
	}
	var drivers []string
	for _, d := range devices {
		if !slices.ContainsFunc(old, same(d)) {
			drivers = append(drivers, d.Driver)
		}
	}
	for _, d := range old {
		if !slices.ContainsFunc(devices, same(d)) {
			drivers = append(drivers, d.Driver)
		}
	}
	slices.Sort(drivers)
	return slices.Compact(drivers)
}

// allocatedNode is the one node that an allocation is for, or empty.
func allocatedNode(allocation *resourcev1.AllocationResult) string {
	if allocation.NodeSelector == nil || len(allocation.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := allocation.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != "metadata.name" || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// runsOn says whether u is the service account of a pod on a node.
func runsOn(u user.Info, node string) bool {
	if _, _, err := serviceaccount.SplitUsername(u.GetName()); err != nil || node == "" {
		return false
	}
	on := u.GetExtra()[serviceaccount.NodeNameKey]
	return len(on) == 1 && on[0] == node
}
