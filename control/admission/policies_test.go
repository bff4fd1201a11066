package admission

import (
	"context"
	"reflect"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

func constraints(resource string) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
		RuleWithOperations: rule(resource, admissionregistrationv1.Create, admissionregistrationv1.Update, admissionregistrationv1.Connect)[0],
	}}}
}

// denies binds a policy that is called p with a binding that is called b.
func denies(t *testing.T, r *resource.Registry, spec admissionregistrationv1.ValidatingAdmissionPolicySpec, change ...func(*admissionregistrationv1.ValidatingAdmissionPolicyBinding)) {
	t.Helper()
	if spec.MatchConstraints == nil {
		spec.MatchConstraints = constraints("pods")
	}
	if _, err := r.Create(t.Context(), resource.ValidatingAdmissionPolicies, "", &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec,
	}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "p", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}
	for _, c := range change {
		c(binding)
	}
	if _, err := r.Create(t.Context(), resource.ValidatingAdmissionPolicyBindings, "", binding, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func validations(expressions ...string) []admissionregistrationv1.Validation {
	var all []admissionregistrationv1.Validation
	for _, e := range expressions {
		all = append(all, admissionregistrationv1.Validation{Expression: e})
	}
	return all
}

func TestPolicyDenies(t *testing.T) {
	const says = `pods "web" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: `
	ignore := admissionregistrationv1.Ignore
	for _, c := range []struct {
		name string
		spec admissionregistrationv1.ValidatingAdmissionPolicySpec
		want string
		code int32
	}{
		{"nothing", admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: validations("true")}, "", 0},
		{"by an expression", admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: validations("size(object.spec.containers) > 1")},
			says + "failed expression: size(object.spec.containers) > 1", 422},
		{"in its own words", admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: []admissionregistrationv1.Validation{{
			Expression: "false", Message: "no", MessageExpression: "'no ' + object.metadata.name", Reason: ptr.To(metav1.StatusReasonForbidden),
		}}}, says + "no web", 403},
		{"with variables", admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Variables:   []admissionregistrationv1.Variable{{Name: "first", Expression: "object.spec.containers[0]"}, {Name: "image", Expression: "variables.first.image"}},
			Validations: validations("variables.image.startsWith('other/')"),
		}, says + "failed expression: variables.image.startsWith('other/')", 422},
		{"by the namespace", admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: validations("namespaceObject.metadata.name == 'team'")},
			says + "failed expression: namespaceObject.metadata.name == 'team'", 422},
		{"not what its conditions leave out", admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "others", Expression: "request.userInfo.username != 'jane'"}},
			Validations:     validations("false"),
		}, "", 0},
		{"because it fails", admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: validations("object.spec.nodeSelector['a'] == 'b'")},
			says + "expression 'object.spec.nodeSelector['a'] == 'b'' resulted in error: no such key: nodeSelector", 422},
		{"nothing when it fails and may", admissionregistrationv1.ValidatingAdmissionPolicySpec{FailurePolicy: &ignore, Validations: validations("object.spec.nodeSelector['a'] == 'b'")}, "", 0},
		{"what costs too much", admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Validations: validations("object.spec.containers.all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, [1,2,3,4,5,6,7,8,9,10].all(g, b+c+d+e+f+g > 0)))))))"),
		}, says + "", 422},
		{"by what the user may", admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: validations("authorizer.group('').resource('nodes').check('delete').allowed()")},
			says + "failed expression: authorizer.group('').resource('nodes').check('delete').allowed()", 422},
		{"nothing that the user may", admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: validations("authorizer.group('').resource('nodes').check('get').allowed()")}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, Settings{Authorizer: getters{}})
			denies(t, r, c.spec)
			ctx := genericrequest.WithUser(t.Context(), &user.DefaultInfo{Name: "jane"})
			_, err := r.Create(ctx, resource.Pods, "default", newPod("web"), resource.CreateOptions{})
			if c.want == "" {
				if err != nil {
					t.Errorf("error %v, want none", err)
				}
				return
			}
			status, ok := err.(apierrors.APIStatus)
			if !ok || !strings.HasPrefix(err.Error(), c.want) || status.Status().Code != c.code {
				t.Errorf("error %v (%+v), want %q with code %d", err, status, c.want, c.code)
			}
		})
	}
}

// getters lets everybody read.
type getters struct{}

func (getters) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() == "get" {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func TestPolicyCountsOnceItIsBoundAndUntilItIsNot(t *testing.T) {
	r := newRegistry(t, Settings{})
	spec := admissionregistrationv1.ValidatingAdmissionPolicySpec{MatchConstraints: constraints("pods"), Validations: validations("false")}
	if _, err := r.Create(t.Context(), resource.ValidatingAdmissionPolicies, "", &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, r, "default", newPod("unbound")); err != nil {
		t.Errorf("with a policy that is not bound: %v", err)
	}
	if _, err := r.Create(t.Context(), resource.ValidatingAdmissionPolicyBindings, "", &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "p", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}},
	}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, r, "default", newPod("bound")); !apierrors.IsInvalid(err) {
		t.Errorf("error %v right after the policy was bound, want a refusal", err)
	}
	if _, _, err := r.Update(t.Context(), resource.ValidatingAdmissionPolicies, "", "p", "", func(current store.Object) (store.Object, error) {
		current.(*admissionregistrationv1.ValidatingAdmissionPolicy).Spec.Validations = validations("object.metadata.name != 'changed'")
		return current, nil
	}, resource.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, r, "default", newPod("changed")); !apierrors.IsInvalid(err) {
		t.Errorf("error %v, want the new expression to count", err)
	}
	if _, err := create(t, r, "default", newPod("other")); err != nil {
		t.Errorf("error %v, want the old expression forgotten", err)
	}
	if _, _, err := r.Delete(t.Context(), resource.ValidatingAdmissionPolicyBindings, "", "b", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, r, "default", newPod("changed")); err != nil {
		t.Errorf("error %v after the binding went", err)
	}
}

func TestPolicyWarnsInsteadOfDenying(t *testing.T) {
	r := newRegistry(t, Settings{})
	denies(t, r, admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: validations("false")}, func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) {
		b.Spec.ValidationActions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Warn, admissionregistrationv1.Audit}
	})
	var said recorder
	if _, err := r.Create(warning.WithWarningRecorder(t.Context(), &said), resource.Pods, "default", newPod("web"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: false"}; !reflect.DeepEqual([]string(said), want) {
		t.Errorf("warnings %q, want %q", said, want)
	}
}

// Parameters are objects of any kind: here a namespace, whose label is the limit.
func TestPolicyHasParameters(t *testing.T) {
	for _, c := range []struct {
		name  string
		label string
		ref   admissionregistrationv1.ParamRef
		want  string
	}{
		{"by name", "web", admissionregistrationv1.ParamRef{Name: "params"}, ""},
		{"by name, refusing", "other", admissionregistrationv1.ParamRef{Name: "params"}, "failed expression"},
		{"by label", "web", admissionregistrationv1.ParamRef{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "web"}}}, ""},
		{"missing", "web", admissionregistrationv1.ParamRef{Name: "none"}, "no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"in a namespace that it has not", "web", admissionregistrationv1.ParamRef{Name: "params", Namespace: "default"}, "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, Settings{})
			if _, err := r.Create(t.Context(), resource.Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "params", Labels: map[string]string{"name": c.label}}}, resource.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			denies(t, r, admissionregistrationv1.ValidatingAdmissionPolicySpec{
				ParamKind:   &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "Namespace"},
				Validations: validations("params.kind == 'Namespace' && params.metadata.labels.name == object.metadata.name"),
			}, func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) {
				b.Spec.ParamRef = &c.ref
				b.Spec.ParamRef.ParameterNotFoundAction = ptr.To(admissionregistrationv1.DenyAction)
			})
			_, err := create(t, r, "default", newPod("web"))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestPolicyDeniesStreams(t *testing.T) {
	r := newRegistry(t, Settings{})
	denies(t, r, admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: constraints("pods/exec"), Validations: validations("object.command[0] != 'rm'"),
	})
	for command, denied := range map[string]bool{"ls": false, "rm": true} {
		as := corev1.SchemeGroupVersion.WithKind("PodExecOptions")
		options := &corev1.PodExecOptions{Command: []string{command}}
		options.SetGroupVersionKind(as)
		if err := r.Connect(t.Context(), resource.Pods, "default", "web", "exec", as, options); (err != nil) != denied {
			t.Errorf("exec of %s: error %v, want denied %t", command, err, denied)
		}
	}
}

// changes binds mutating policies, each called like its expression's number.
func changes(t *testing.T, r *resource.Registry, reinvocation admissionregistrationv1.ReinvocationPolicyType, mutations ...admissionregistrationv1.Mutation) {
	t.Helper()
	for i, m := range mutations {
		name := string(rune('a' + i))
		if _, err := r.Create(t.Context(), resource.MutatingAdmissionPolicies, "", &admissionregistrationv1.MutatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
				MatchConstraints: constraints("pods"), ReinvocationPolicy: reinvocation, Mutations: []admissionregistrationv1.Mutation{m},
			},
		}, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Create(t.Context(), resource.MutatingAdmissionPolicyBindings, "", &admissionregistrationv1.MutatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name},
		}, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func applies(expression string) admissionregistrationv1.Mutation {
	return admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: expression}}
}

func patches(expression string) admissionregistrationv1.Mutation {
	return admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: expression}}
}

func TestPolicyChangesObjects(t *testing.T) {
	r := newRegistry(t, Settings{})
	changes(t, r, admissionregistrationv1.NeverReinvocationPolicy,
		applies(`Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: "mesh", image: "mesh:1"}]}}`),
		patches(`[JSONPatch{op: "add", path: "/metadata/labels", value: {"by": "policy"}}]`),
	)
	pod, err := create(t, r, "default", newPod("web"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].TerminationMessagePath == "" || pod.Labels["by"] != "policy" || len(pod.Spec.Containers) != 1 {
		t.Errorf("pod %+v, want the container, with defaults, and the label", pod)
	}
	if _, _, err := r.Delete(t.Context(), resource.Pods, "default", "web", nil); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// The first policy counts containers, the second adds one.
func TestPolicyIsAskedAgainAboutLaterChanges(t *testing.T) {
	for policy, want := range map[admissionregistrationv1.ReinvocationPolicyType]string{
		admissionregistrationv1.NeverReinvocationPolicy:    "1",
		admissionregistrationv1.IfNeededReinvocationPolicy: "2",
	} {
		r := newRegistry(t, Settings{})
		changes(t, r, policy,
			patches(`[JSONPatch{op: "add", path: "/metadata/labels", value: {"containers": string(size(object.spec.containers))}}]`),
			patches(`size(object.spec.containers) > 1 ? [] : [JSONPatch{op: "add", path: "/spec/containers/-", value: Object.spec.containers{name: "side", image: "side:1"}}]`),
		)
		pod, err := create(t, r, "default", newPod("web"))
		if err != nil {
			t.Fatal(err)
		}
		if pod.Labels["containers"] != want || len(pod.Spec.Containers) != 2 {
			t.Errorf("%s: label %q of %d containers, want %s", policy, pod.Labels["containers"], len(pod.Spec.Containers), want)
		}
	}
}

// The rules, which come next, are written for objects that convert: a policy that
// makes another must be told so, and must not be met by them.
func TestWhatPoliciesMakeMustConvert(t *testing.T) {
	r := newRegistry(t, Settings{})
	changes(t, r, admissionregistrationv1.NeverReinvocationPolicy, patches(`[JSONPatch{op: "add", path: "/metadata/annotations", value: {"deprecated.daemonset.template.generation": "x"}}]`))
	if _, _, err := r.Update(t.Context(), resource.MutatingAdmissionPolicies, "", "a", "", func(current store.Object) (store.Object, error) {
		rule := &current.(*admissionregistrationv1.MutatingAdmissionPolicy).Spec.MatchConstraints.ResourceRules[0]
		rule.APIGroups, rule.APIVersions, rule.Resources = []string{"apps"}, []string{"v1"}, []string{"daemonsets"}
		return current, nil
	}, resource.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "web"}
	_, err := r.Create(t.Context(), resource.DaemonSets, "default", &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: newPod("").Spec},
	}}, resource.CreateOptions{})
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `after mutating admission policies: strconv.ParseInt: parsing "x"`) {
		t.Errorf("%v, want an internal error that says why", err)
	}
}
