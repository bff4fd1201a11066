package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// hooked is a webhook's server: it answers what answer says and keeps what it
// was asked.
type hooked struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []*admissionv1.AdmissionRequest
	bodies [][]byte
}

func newHooked(t *testing.T, answer func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) *hooked {
	h := &hooked{}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller gave up half-way, as the deletions beside a refused one do
		}
		review := &admissionv1.AdmissionReview{}
		if err := json.Unmarshal(body, review); err != nil {
			t.Errorf("webhook was sent %q: %v", body, err)
			return
		}
		h.mu.Lock()
		h.asked, h.bodies = append(h.asked, review.Request), append(h.bodies, body)
		h.mu.Unlock()
		response := answer(review.Request)
		if response == nil {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		response.UID = review.Request.UID
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
	}))
	h.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.Server.StartTLS()
	t.Cleanup(func() {
		h.Server.CloseClientConnections()
		h.Server.Close()
	})
	return h
}

func (h *hooked) requests() []*admissionv1.AdmissionRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

// client is where a configuration finds the server.
func (h *hooked) client(path string) admissionregistrationv1.WebhookClientConfig {
	return admissionregistrationv1.WebhookClientConfig{
		URL:      ptr.To(h.URL + path),
		CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}),
	}
}

func allowed(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

func patched(patch string) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: ptr.To(admissionv1.PatchTypeJSONPatch)}
	}
}

func rule(resource string, operations ...admissionregistrationv1.OperationType) []admissionregistrationv1.RuleWithOperations {
	if len(operations) == 0 {
		operations = []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll}
	}
	return []admissionregistrationv1.RuleWithOperations{{
		Operations: operations,
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}},
	}}
}

// validates configures one validating webhook.
func validates(t *testing.T, r *resource.Registry, h *hooked, change func(*admissionregistrationv1.ValidatingWebhook)) {
	t.Helper()
	w := admissionregistrationv1.ValidatingWebhook{
		Name: "check.example.org", ClientConfig: h.client("/check"), Rules: rule("pods"),
		SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
	}
	if change != nil {
		change(&w)
	}
	if _, err := r.Create(t.Context(), resource.ValidatingWebhookConfigurations, "", &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "check-"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{w},
	}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// mutates configures mutating webhooks, in that order.
func mutates(t *testing.T, r *resource.Registry, webhooks ...admissionregistrationv1.MutatingWebhook) {
	t.Helper()
	for i := range webhooks {
		w := &webhooks[i]
		if w.Rules == nil {
			w.Rules = rule("pods", admissionregistrationv1.Create, admissionregistrationv1.Update)
		}
		w.SideEffects = ptr.To(admissionregistrationv1.SideEffectClassNone)
		if w.AdmissionReviewVersions == nil {
			w.AdmissionReviewVersions = []string{"v1"}
		}
	}
	if _, err := r.Create(t.Context(), resource.MutatingWebhookConfigurations, "", &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "change"}, Webhooks: webhooks,
	}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestWebhookIsToldOfAWrite(t *testing.T) {
	r := newRegistry(t, Settings{})
	h := newHooked(t, allowed)
	validates(t, r, h, nil)
	ctx := genericrequest.WithUser(t.Context(), &user.DefaultInfo{Name: "jane", UID: "7", Groups: []string{"dev"}, Extra: map[string][]string{"a": {"b"}}})
	if _, err := r.Create(ctx, resource.Pods, "default", newPod("web"), resource.CreateOptions{FieldManager: "test", FieldValidation: "Strict"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Update(ctx, resource.Pods, "default", "web", "", func(current store.Object) (store.Object, error) {
		current.SetLabels(map[string]string{"a": "b"})
		return current, nil
	}, resource.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Connect(ctx, resource.Pods, "default", "web", "exec", corev1.SchemeGroupVersion.WithKind("PodExecOptions"), &corev1.PodExecOptions{Command: []string{"sh"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Delete(ctx, resource.Pods, "default", "web", metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	asked := h.requests()
	if len(asked) != 3 { // exec is pods/exec, which the rule does not name
		t.Fatalf("%d calls, want create, update and delete", len(asked))
	}
	create, update, remove := asked[0], asked[1], asked[2]
	if create.Operation != admissionv1.Create || create.Name != "web" || create.Namespace != "default" ||
		create.Kind != (metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}) || create.Resource != (metav1.GroupVersionResource{Version: "v1", Resource: "pods"}) ||
		*create.RequestKind != create.Kind || *create.RequestResource != create.Resource || *create.DryRun {
		t.Errorf("create is told as %+v", create)
	}
	if create.UserInfo.Username != "jane" || create.UserInfo.UID != "7" || !reflect.DeepEqual(create.UserInfo.Groups, []string{"dev"}) || create.UserInfo.Extra["a"][0] != "b" {
		t.Errorf("user is told as %+v", create.UserInfo)
	}
	if want := `{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1","fieldManager":"test","fieldValidation":"Strict"}`; string(create.Options.Raw) != want {
		t.Errorf("options %s, want %s", create.Options.Raw, want)
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(create.Object.Raw, pod); err != nil || pod.Kind != "Pod" || pod.APIVersion != "v1" || pod.UID == "" || pod.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("object %s, want it typed, with a uid and with defaults", create.Object.Raw)
	}
	if len(create.OldObject.Raw) > 0 && string(create.OldObject.Raw) != "null" {
		t.Errorf("old object of a create: %s", create.OldObject.Raw)
	}
	if !strings.Contains(string(update.Object.Raw), `"labels":{"a":"b"}`) || strings.Contains(string(update.OldObject.Raw), `"labels"`) || !strings.Contains(string(update.OldObject.Raw), `"name":"web"`) {
		t.Errorf("update from %s to %s", update.OldObject.Raw, update.Object.Raw)
	}
	if remove.Operation != admissionv1.Delete || string(remove.Object.Raw) != "null" && len(remove.Object.Raw) > 0 || !strings.Contains(string(remove.OldObject.Raw), `"name":"web"`) ||
		!strings.Contains(string(remove.Options.Raw), `"gracePeriodSeconds":0`) {
		t.Errorf("delete is told as %+v", remove)
	}
}

func TestWebhookRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		result *metav1.Status
		want   string
		code   int32
	}{
		{"with a message", &metav1.Status{Message: "no cats"}, `admission webhook "check.example.org" denied the request: no cats`, 400},
		{"with a code", &metav1.Status{Message: "no cats", Code: 403, Reason: metav1.StatusReasonForbidden}, `admission webhook "check.example.org" denied the request: no cats`, 403},
		{"without a word", nil, `admission webhook "check.example.org" denied the request without explanation`, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, Settings{})
			validates(t, r, newHooked(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
				return &admissionv1.AdmissionResponse{Result: c.result}
			}), nil)
			_, err := create(t, r, "default", newPod("web"))
			var status apierrors.APIStatus
			if !errors.As(err, &status) || err.Error() != c.want || status.Status().Code != c.code {
				t.Errorf("error %v (%+v), want %s with code %d", err, status, c.want, c.code)
			}
		})
	}
}

func TestWebhookChangesObjects(t *testing.T) {
	r := newRegistry(t, Settings{})
	first := newHooked(t, patched(`[{"op":"add","path":"/metadata/labels","value":{"a":"1"}},{"op":"add","path":"/spec/containers/-","value":{"name":"side","image":"side:1"}}]`))
	second := newHooked(t, patched(`[{"op":"test","path":"/metadata/labels/a","value":"1"},{"op":"add","path":"/metadata/labels/b","value":"2"}]`))
	mutates(t, r,
		admissionregistrationv1.MutatingWebhook{Name: "one.example.org", ClientConfig: first.client("")},
		admissionregistrationv1.MutatingWebhook{Name: "two.example.org", ClientConfig: second.client("")},
	)
	pod, err := create(t, r, "default", newPod("web"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(pod.Labels, map[string]string{"a": "1", "b": "2"}) || len(pod.Spec.Containers) != 2 {
		t.Errorf("labels %v, %d containers; want both webhooks' changes", pod.Labels, len(pod.Spec.Containers))
	}
	if c := pod.Spec.Containers[1]; c.ImagePullPolicy != corev1.PullIfNotPresent || c.TerminationMessagePath == "" {
		t.Errorf("added container %+v, want it to have defaults", c)
	}
	if got := len(first.requests()); got != 1 {
		t.Errorf("the first webhook was called %d times, want once: it does not ask for more", got)
	}
}

// A webhook that asks for it hears of what came after it, once.
func TestWebhookIsAskedAgainAboutLaterChanges(t *testing.T) {
	r := newRegistry(t, Settings{})
	again := admissionregistrationv1.IfNeededReinvocationPolicy
	counts := newHooked(t, func(a *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		pod := &corev1.Pod{}
		if json.Unmarshal(a.Object.Raw, pod) != nil || len(pod.Spec.Containers) < 2 {
			return allowed(a)
		}
		return patched(`[{"op":"add","path":"/metadata/annotations","value":{"saw":"both"}}]`)(a)
	})
	adds := newHooked(t, patched(`[{"op":"add","path":"/spec/containers/-","value":{"name":"side","image":"side:1"}}]`))
	mutates(t, r,
		admissionregistrationv1.MutatingWebhook{Name: "counts.example.org", ClientConfig: counts.client(""), ReinvocationPolicy: &again},
		admissionregistrationv1.MutatingWebhook{Name: "adds.example.org", ClientConfig: adds.client("")},
	)
	pod, err := create(t, r, "default", newPod("web"))
	if err != nil {
		t.Fatal(err)
	}
	if pod.Annotations["saw"] != "both" || len(counts.requests()) != 2 || len(adds.requests()) != 1 {
		t.Errorf("annotations %v after %d and %d calls; want the first asked twice, the second once", pod.Annotations, len(counts.requests()), len(adds.requests()))
	}
}

func TestWebhookThatFails(t *testing.T) {
	ignore, fail := admissionregistrationv1.Ignore, admissionregistrationv1.Fail
	for _, c := range []struct {
		name   string
		policy *admissionregistrationv1.FailurePolicyType
		break_ func(*testing.T, *hooked, *admissionregistrationv1.ValidatingWebhook)
		want   string
	}{
		{"answers 500", &fail, nil, `failed calling webhook "check.example.org": failed to call webhook: an error on the server`},
		{"answers 500, ignored", &ignore, nil, ""},
		{"says nothing about failure", nil, nil, `failed calling webhook`},
		{"is not there", &fail, func(_ *testing.T, h *hooked, _ *admissionregistrationv1.ValidatingWebhook) { h.Close() }, `connect: connection refused`},
		{"is not there, ignored", &ignore, func(_ *testing.T, h *hooked, _ *admissionregistrationv1.ValidatingWebhook) { h.Close() }, ""},
		{"is somebody else", &fail, func(t *testing.T, _ *hooked, w *admissionregistrationv1.ValidatingWebhook) {
			w.ClientConfig.CABundle = nil
		}, `certificate signed by unknown authority`},
		{"is somebody else, ignored", &ignore, func(t *testing.T, _ *hooked, w *admissionregistrationv1.ValidatingWebhook) {
			w.ClientConfig.CABundle = nil
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, Settings{})
			h := newHooked(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return nil })
			validates(t, r, h, func(w *admissionregistrationv1.ValidatingWebhook) {
				w.FailurePolicy = c.policy
				if c.break_ != nil {
					c.break_(t, h, w)
				}
			})
			_, err := create(t, r, "default", newPod("web"))
			if c.want == "" {
				if err != nil {
					t.Errorf("error %v, want none: the webhook's failure is ignored", err)
				}
				return
			}
			if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want 500 with %q", err, c.want)
			}
		})
	}
}

// The webhook never answers: only its timeout ends the call.
func TestWebhookHasItsTimeout(t *testing.T) {
	r := newRegistry(t, Settings{})
	done := make(chan struct{})
	h := newHooked(t, func(a *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		<-done
		return allowed(a)
	})
	defer close(done)
	validates(t, r, h, func(w *admissionregistrationv1.ValidatingWebhook) { w.TimeoutSeconds = ptr.To[int32](1) })
	start := time.Now()
	_, err := create(t, r, "default", newPod("web"))
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "context deadline exceeded") {
		t.Errorf("error %v after %v, want a deadline", err, time.Since(start))
	}
}

func TestWebhookIsCalledForWhatItSelects(t *testing.T) {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"checked": "yes"}}
	for _, c := range []struct {
		name   string
		change func(*admissionregistrationv1.ValidatingWebhook)
		calls  []string // names of pods
	}{
		{"everything", nil, []string{"plain", "labelled", "team-plain"}},
		{"a namespace", func(w *admissionregistrationv1.ValidatingWebhook) { w.NamespaceSelector = selector }, []string{"team-plain"}},
		{"objects", func(w *admissionregistrationv1.ValidatingWebhook) { w.ObjectSelector = selector }, []string{"labelled"}},
		{"conditions", func(w *admissionregistrationv1.ValidatingWebhook) {
			w.MatchConditions = []admissionregistrationv1.MatchCondition{
				{Name: "not-labelled", Expression: `!has(object.metadata.labels)`},
				{Name: "jane", Expression: `request.userInfo.username == 'jane'`},
			}
		}, []string{"plain", "team-plain"}},
		{"another operation", func(w *admissionregistrationv1.ValidatingWebhook) {
			w.Rules = rule("pods", admissionregistrationv1.Delete)
		}, nil},
		{"another resource", func(w *admissionregistrationv1.ValidatingWebhook) { w.Rules = rule("nodes") }, nil},
		{"its own kind", func(w *admissionregistrationv1.ValidatingWebhook) {
			w.Rules = rule("*/*")
			w.Rules[0].APIGroups, w.Rules[0].APIVersions = []string{"admissionregistration.k8s.io"}, []string{"*"}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, Settings{})
			if _, err := r.Create(t.Context(), resource.Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team", Labels: map[string]string{"checked": "yes"}}}, resource.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			h := newHooked(t, allowed)
			validates(t, r, h, c.change)
			validates(t, r, h, func(w *admissionregistrationv1.ValidatingWebhook) {
				w.Rules = rule("nodes") // a second configuration disturbs nobody
			})
			ctx := genericrequest.WithUser(t.Context(), &user.DefaultInfo{Name: "jane"})
			for _, p := range []struct{ namespace, name, label string }{{"default", "plain", ""}, {"default", "labelled", "yes"}, {"team", "team-plain", ""}} {
				pod := newPod(p.name)
				if p.label != "" {
					pod.Labels = map[string]string{"checked": p.label}
				}
				if _, err := r.Create(ctx, resource.Pods, p.namespace, pod, resource.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			var names []string
			for _, a := range h.requests() {
				names = append(names, a.Name)
			}
			if !reflect.DeepEqual(names, c.calls) {
				t.Errorf("called for %v, want %v", names, c.calls)
			}
		})
	}
}

func TestWebhookConditionThatFails(t *testing.T) {
	for _, policy := range []admissionregistrationv1.FailurePolicyType{admissionregistrationv1.Fail, admissionregistrationv1.Ignore} {
		r := newRegistry(t, Settings{})
		h := newHooked(t, allowed)
		validates(t, r, h, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.FailurePolicy = &policy
			w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "bad", Expression: `object.metadata.labels['missing'] == 'x'`}}
		})
		_, err := create(t, r, "default", newPod("web"))
		if (policy == admissionregistrationv1.Fail) != apierrors.IsForbidden(err) || len(h.requests()) != 0 {
			t.Errorf("%s: error %v after %d calls; want 403 only if failures count, and no call", policy, err, len(h.requests()))
		}
	}
}

func TestWebhookWithSideEffectsSeesNoDryRun(t *testing.T) {
	r := newRegistry(t, Settings{})
	h := newHooked(t, allowed)
	validates(t, r, h, func(w *admissionregistrationv1.ValidatingWebhook) {
		w.SideEffects = ptr.To(admissionregistrationv1.SideEffectClassNoneOnDryRun)
	})
	if _, err := r.Create(t.Context(), resource.Pods, "default", newPod("web"), resource.CreateOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if asked := h.requests(); len(asked) != 1 || !*asked[0].DryRun || !strings.Contains(string(asked[0].Options.Raw), `"dryRun":["All"]`) {
		t.Errorf("asked %+v, want once with dryRun", asked)
	}
}

func TestOldWebhooksSpeakV1beta1(t *testing.T) {
	r := newRegistry(t, Settings{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review := &admissionv1beta1.AdmissionReview{}
		if err := json.NewDecoder(r.Body).Decode(review); err != nil || review.APIVersion != "admission.k8s.io/v1beta1" {
			t.Errorf("asked with %+v, %v; want v1beta1", review, err)
		}
		// Neither the uid nor the patch type was asked for then.
		_ = json.NewEncoder(w).Encode(admissionv1beta1.AdmissionReview{TypeMeta: review.TypeMeta, Response: &admissionv1beta1.AdmissionResponse{
			Allowed: true, Patch: []byte(`[{"op":"add","path":"/metadata/labels","value":{"old":"yes"}}]`),
		}})
	}))
	defer server.Close()
	defer server.CloseClientConnections()
	mutates(t, r, admissionregistrationv1.MutatingWebhook{
		Name: "old.example.org", ClientConfig: (&hooked{Server: server}).client(""), AdmissionReviewVersions: []string{"v1beta1", "v1"},
	})
	if pod, err := create(t, r, "default", newPod("web")); err != nil || pod.Labels["old"] != "yes" {
		t.Errorf("%v, %v; want the patch", pod, err)
	}
}

func TestWebhookWarns(t *testing.T) {
	r := newRegistry(t, Settings{})
	validates(t, r, newHooked(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"mind the gap"}}
	}), nil)
	var said recorder
	if _, err := r.Create(warning.WithWarningRecorder(t.Context(), &said), resource.Pods, "default", newPod("web"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual([]string(said), []string{"mind the gap"}) {
		t.Errorf("warnings %q", said)
	}
}

type recorder []string

func (r *recorder) AddWarning(_, text string) { *r = append(*r, text) }

// A webhook in a service is dialled by the service's name, whatever its address,
// and has to prove that name.
func TestWebhookRunsAsAService(t *testing.T) {
	for _, name := range []string{"hook.team.svc", "hook.other.svc"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true}
		certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		h := newHooked(t, allowed)
		h.TLS.Certificates = []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}
		dialled := dialler{to: h.Listener.Addr().String()}
		r := newRegistry(t, Settings{Services: &dialled})
		validates(t, r, h, func(w *admissionregistrationv1.ValidatingWebhook) {
			w.ClientConfig = admissionregistrationv1.WebhookClientConfig{
				Service:  &admissionregistrationv1.ServiceReference{Namespace: "team", Name: "hook", Path: ptr.To("/check"), Port: ptr.To[int32](8443)},
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
			}
		})
		_, err = create(t, r, "default", newPod("web"))
		if proven := name == "hook.team.svc"; proven != (err == nil) || proven != (len(h.requests()) == 1) {
			t.Errorf("%s: error %v after %d calls, want one call only for the service's own name", name, err, len(h.requests()))
		}
		if dialled.service != "team/hook:8443" {
			t.Errorf("dialled %s, want the service", dialled.service)
		}
	}
}

// dialler leads every service to one address.
type dialler struct{ to, service string }

func (d *dialler) Service(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	d.service = fmt.Sprintf("%s/%s:%d", namespace, name, port)
	return (&net.Dialer{}).DialContext(ctx, "tcp", d.to)
}

// CVE-2020-8561: an answer that redirects would have a control node fetch
// whatever it can reach.
func TestCVE20208561WebhookDoesNotRedirect(t *testing.T) {
	r := newRegistry(t, Settings{})
	inner := newHooked(t, allowed)
	outer := httptest.NewTLSServer(http.RedirectHandler(inner.URL+"/secret", http.StatusTemporaryRedirect))
	defer outer.Close()
	defer outer.CloseClientConnections()
	validates(t, r, &hooked{Server: outer}, nil)
	_, err := create(t, r, "default", newPod("web"))
	if err == nil || !strings.Contains(err.Error(), "redirects are not followed") || len(inner.requests()) != 0 {
		t.Errorf("error %v, %d requests behind the redirect; want a refusal and none", err, len(inner.requests()))
	}
}

func TestWebhookAnswerIsBounded(t *testing.T) {
	r := newRegistry(t, Settings{})
	h := newHooked(t, func(a *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{strings.Repeat("x", 9<<20)}}
	})
	validates(t, r, h, nil)
	if _, err := create(t, r, "default", newPod("web")); err == nil || !strings.Contains(err.Error(), "answer is too large") {
		t.Errorf("error %v, want the answer refused", err)
	}
}

// A deletion of many asks about each.
func TestWebhookIsAskedAboutEachDeletion(t *testing.T) {
	r := newRegistry(t, Settings{})
	h := newHooked(t, func(a *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: a.Name != "kept"}
	})
	for _, name := range []string{"a", "b", "kept"} {
		if _, err := create(t, r, "default", newPod(name)); err != nil {
			t.Fatal(err)
		}
	}
	validates(t, r, h, nil)
	_, _, err := r.DeleteCollection(t.Context(), resource.Pods, metav1.NewDeleteOptions(0), store.ListOptions{Namespace: "default"})
	if err == nil || !strings.Contains(err.Error(), "denied the request") {
		t.Errorf("error %v, want the refusal", err)
	}
	if _, err := r.Store().Table(store.Pods).Get(context.Background(), "default", "kept"); err != nil {
		t.Errorf("the pod that was to be kept: %v", err)
	}
}
