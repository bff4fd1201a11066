package admission

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

func newDeviceClaim(name string, admin bool) *resourcev1.ResourceClaim {
	request := resourcev1.DeviceRequest{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "x"}}
	if admin {
		request.Exactly.AdminAccess = new(true)
	}
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceClaimSpec{
		Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{request}},
	}}
}

// invalid checks that an error is 422 with want in it, or none for "".
func invalid(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v, want it allowed", what, err)
	case want != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, want 422 with %q", what, err, want)
	}
}

// Who has an administrator's access to a device sees what others do with it.
func TestAdministratorsAccessToDevicesIsForTheirNamespaces(t *testing.T) {
	r := newRegistry(t, Settings{})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "admins", Labels: map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"}}}
	if _, err := r.Create(t.Context(), resource.Namespaces, "", ns, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const want = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
	put := func(kind *resource.Kind, namespace string, obj store.Object) error {
		_, err := r.Create(t.Context(), kind, namespace, obj, resource.CreateOptions{})
		return err
	}
	invalid(t, "a claim", put(resource.ResourceClaims, "default", newDeviceClaim("a", false)), "")
	invalid(t, "an administrator's claim", put(resource.ResourceClaims, "default", newDeviceClaim("b", true)), want)
	invalid(t, "one in their namespace", put(resource.ResourceClaims, "admins", newDeviceClaim("b", true)), "")
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: newDeviceClaim("", true).Spec}}
	invalid(t, "an administrator's template", put(resource.ResourceClaimTemplates, "default", template), want)
}

// What a claim was given is for the scheduler to say, and how a device is for its
// driver: whoever could write both through the status could take a device that
// another has, or forge what its driver says.
func TestAClaimsStatusIsForThoseWhoGiveDevices(t *testing.T) {
	r := newRoles(t)
	rule := func(resources, name string, verbs ...string) rbacv1.PolicyRule {
		rule := rbacv1.PolicyRule{APIGroups: []string{resourcev1.GroupName}, Resources: []string{resources}, Verbs: verbs}
		if name != "" {
			rule.ResourceNames = []string{name}
		}
		return rule
	}
	for who, rules := range map[string][]rbacv1.PolicyRule{
		"scheduler":                            {rule("resourceclaims/binding", "", "update")},
		"driver":                               {rule("resourceclaims/driver", "example.org", "arbitrary-node:patch")},
		"system:serviceaccount:default:driver": {rule("resourceclaims/driver", "example.org", "associated-node:update")},
	} {
		name := who[strings.LastIndex(who, ":")+1:] + "-" + rules[0].Verbs[0][:3]
		for _, obj := range []store.Object{
			&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules},
			&rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: who}},
			},
		} {
			kind := resource.ClusterRoles
			if _, ok := obj.(*rbacv1.ClusterRoleBinding); ok {
				kind = resource.ClusterRoleBindings
			}
			if _, err := r.Create(t.Context(), kind, "", obj, resource.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := r.Create(t.Context(), resource.ResourceClaims, "default", newDeviceClaim("a", false), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := func(ctx context.Context, patch bool, change func(*resourcev1.ResourceClaimStatus)) error {
		_, _, err := r.Update(ctx, resource.ResourceClaims, "default", "a", "status", func(current store.Object) (store.Object, error) {
			change(&current.(*resourcev1.ResourceClaim).Status)
			return current, nil
		}, resource.UpdateOptions{Patch: patch})
		return err
	}
	allocate := func(s *resourcev1.ResourceClaimStatus) {
		s.Allocation = &resourcev1.AllocationResult{
			Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "gpu", Driver: "example.org", Pool: "n", Device: "gpu-0"}}},
			NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
				Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"},
			}}}}},
		}
	}
	report := func(reason string) func(*resourcev1.ResourceClaimStatus) {
		return func(s *resourcev1.ResourceClaimStatus) {
			s.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "example.org", Pool: "n", Device: "gpu-0", Conditions: []metav1.Condition{
				{Type: "Ready", Status: "True", Reason: reason, LastTransitionTime: metav1.Unix(1, 0)},
			}}}
		}
	}
	on := func(node string) context.Context {
		return genericrequest.WithUser(t.Context(), &user.DefaultInfo{Name: "system:serviceaccount:default:driver", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {node}}})
	}
	scheduler, driver, eve := as(t.Context(), "scheduler"), as(t.Context(), "driver"), as(t.Context(), "eve")
	invalid(t, "eve allocates", status(eve, false, allocate), `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: resourceclaims.resource.k8s.io is forbidden: User "eve" cannot update resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope`)
	invalid(t, "the scheduler patches", status(scheduler, true, allocate), `verb="patch" permission`)
	invalid(t, "the scheduler allocates", status(scheduler, false, allocate), "")
	invalid(t, "eve reports", status(eve, false, report("A")), `status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:update]" permission`)
	invalid(t, "the driver updates", status(driver, false, report("A")), `verb="[arbitrary-node:update]"`)
	invalid(t, "the driver patches", status(driver, true, report("A")), "")
	invalid(t, "the node's driver reports", status(on("n1"), false, report("B")), "")
	invalid(t, "another node's driver reports", status(on("n2"), false, report("C")), `verb="[arbitrary-node:update]"`)
	invalid(t, "nothing changes", status(eve, false, func(*resourcev1.ResourceClaimStatus) {}), "")
	invalid(t, "the control plane itself", status(t.Context(), false, report("D")), "")
}

// A node offers its own devices, and none in the name of another.
func TestANodeOffersItsOwnDevicesOnly(t *testing.T) {
	r := newRegistry(t, Settings{})
	slice := func(name string, node *string) *resourcev1.ResourceSlice {
		s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.org", Pool: resourcev1.ResourcePool{Name: "n", ResourceSliceCount: 1}, NodeName: node,
		}}
		if node == nil {
			s.Spec.AllNodes = new(true)
		}
		return s
	}
	n1 := as(t.Context(), "system:node:n1", user.NodesGroup)
	put := func(ctx context.Context, s *resourcev1.ResourceSlice) error {
		_, err := r.Create(ctx, resource.ResourceSlices, "", s, resource.CreateOptions{})
		return err
	}
	const want = "ResourceSlice with the same NodeName as the requesting node"
	refused(t, "its own", put(n1, slice("a", new("n1"))), "")
	refused(t, "another's", put(n1, slice("b", new("n2"))), "can only create "+want)
	refused(t, "everybody's", put(n1, slice("b", nil)), "can only create "+want)
	refused(t, "another's, by an administrator", put(t.Context(), slice("b", new("n2"))), "")
	_, _, err := r.Delete(n1, resource.ResourceSlices, "", "b", &metav1.DeleteOptions{})
	refused(t, "deletes another's", err, "can only delete "+want)
	_, _, err = r.Delete(n1, resource.ResourceSlices, "", "a", &metav1.DeleteOptions{})
	refused(t, "deletes its own", err, "")
}
