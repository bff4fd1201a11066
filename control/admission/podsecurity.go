package admission

import (
	"context"
	"errors"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/component-base/metrics/legacyregistry"
	podsecurityadmission "k8s.io/pod-security-admission/admission"
	"k8s.io/pod-security-admission/admission/api/load"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// podSecurityLabels begin the labels with which a namespace says what its pods
// may do: pod-security.kubernetes.io/enforce, audit and warn.
const podSecurityLabels = "pod-security.kubernetes.io/"

// podSecurity holds pods to the level that their namespace names, and warns of
// workloads whose pods would not be let in. A namespace that names none lets in
// everything.
type podSecurity struct {
	store      *store.Store
	namespaces *store.Table
	// evaluator is made for the first namespace that names a level.
	evaluator func() (*podsecurityadmission.Admission, error)
}

func newPodSecurity(s *store.Store) *podSecurity {
	p := &podSecurity{store: s, namespaces: s.Table(store.Namespaces)}
	p.evaluator = sync.OnceValues(p.newEvaluator)
	return p
}

// podSecurityMetrics are counted for the whole process.
var podSecurityMetrics = sync.OnceValue(func() metrics.Recorder {
	recorder := metrics.NewPrometheusRecorder(podsecurityapi.GetAPIVersion())
	recorder.MustRegister(legacyregistry.MustRegister)
	return recorder
})

func (p *podSecurity) newEvaluator() (*podsecurityadmission.Admission, error) {
	config, err := load.LoadFromData(nil)
	if err != nil {
		return nil, err
	}
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, err
	}
	evaluator := &podsecurityadmission.Admission{
		Configuration:    config,
		Evaluator:        checks,
		Metrics:          podSecurityMetrics(),
		PodSpecExtractor: podsecurityadmission.DefaultPodSpecExtractor{},
		NamespaceGetter:  namespaceGetter{hook.Namespaces{Store: p.store}},
		PodLister:        podLister{p.store},
	}
	if err := evaluator.CompleteConfiguration(); err != nil {
		return nil, err
	}
	return evaluator, evaluator.ValidateConfiguration()
}

func (p *podSecurity) Admit(context.Context, *resource.Attributes) error { return nil }

func (p *podSecurity) Validate(ctx context.Context, a *resource.Attributes) error {
	if a.Operation != resource.Create && a.Operation != resource.Update || !p.concerns(a) {
		return nil
	}
	evaluator, err := p.evaluator()
	if err != nil {
		return err
	}
	r := hook.NewRequest(ctx, a)
	result := evaluator.Validate(ctx, podSecurityRequest{r})
	for _, text := range result.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	for key, value := range result.AuditAnnotations {
		// Only one that is not well formed is not taken; upstream's all are.
		_ = r.AddAnnotation(podsecurityapi.AuditAnnotationPrefix+key, value)
	}
	if result.Allowed {
		return nil
	}
	refused := a.Forbidden(errors.New("Not allowed by PodSecurity")) //nolint:staticcheck // upstream's wording
	if said := result.Result; said != nil {
		if said.Message != "" {
			refused.ErrStatus.Message = said.Message
		}
		if said.Reason != "" {
			refused.ErrStatus.Reason = said.Reason
		}
		if said.Details != nil {
			refused.ErrStatus.Details = said.Details
		}
		if said.Code != 0 {
			refused.ErrStatus.Code = said.Code
		}
	}
	return refused
}

// concerns says whether a level is named: by the namespace that is written, or
// that of the pod or workload.
func (p *podSecurity) concerns(a *resource.Attributes) bool {
	if a.Kind == resource.Namespaces {
		return a.Subresource == "" && (namesLevel(a.Object) || namesLevel(a.OldObject))
	}
	if !(podsecurityadmission.DefaultPodSpecExtractor{}).HasPodSpec(a.Kind.Spec.Resource) {
		return false
	}
	// That it is there was made sure of before.
	item, _, err := p.namespaces.GetItem("", a.Namespace)
	if err != nil {
		return false
	}
	for _, label := range item.Labels {
		if strings.HasPrefix(label.Name, podSecurityLabels) {
			return true
		}
	}
	return false
}

func namesLevel(obj runtime.Object) bool {
	namespace, ok := obj.(*corev1.Namespace)
	if !ok {
		return false
	}
	for name := range namespace.Labels {
		if strings.HasPrefix(name, podSecurityLabels) {
			return true
		}
	}
	return false
}

// podSecurityRequest is a request as upstream's evaluator reads it.
type podSecurityRequest struct{ *hook.Request }

func (r podSecurityRequest) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(r.Request.GetOperation())
}
func (r podSecurityRequest) GetObject() (runtime.Object, error) { return r.Request.GetObject(), nil }
func (r podSecurityRequest) GetOldObject() (runtime.Object, error) {
	return r.Request.GetOldObject(), nil
}
func (r podSecurityRequest) GetUserName() string { return r.GetUserInfo().GetName() }

type namespaceGetter struct{ namespaces hook.Namespaces }

func (g namespaceGetter) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return g.namespaces.Get(ctx, name)
}

// podLister finds the pods that a stricter level would not have let in.
type podLister struct{ store *store.Store }

func (l podLister) ListPods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	pods, _, err := store.Of[*corev1.Pod](l.store, store.Pods).List(ctx, store.ListOptions{Namespace: namespace})
	return pods, err
}
