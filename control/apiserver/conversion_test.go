package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/musterhq/muster/control/custom"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm"
)

const addresses = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: addresses.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: addresses, kind: Address}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {url: %q, caBundle: %s}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {at: {type: string}}}}
  - name: v2
    served: true
    storage: false
    selectableFields: [{jsonPath: .host}]
    schema: {openAPIV3Schema: {type: object, required: [host], properties: {host: {type: string}, port: {type: string}}}}
`

// convert is a conversion webhook: "at" of v1 is "host:port" of v2.
func convert(w http.ResponseWriter, r *http.Request) {
	review := &apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		if review.Request.DesiredAPIVersion == "example.org/v2" {
			host, port, _ := strings.Cut(fmt.Sprint(u.Object["at"]), ":")
			u.Object["host"], u.Object["port"] = host, port
			delete(u.Object, "at")
		} else {
			u.Object["at"] = fmt.Sprintf("%v:%v", u.Object["host"], u.Object["port"])
			delete(u.Object, "host")
			delete(u.Object, "port")
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Request = nil
	_ = json.NewEncoder(w).Encode(review)
}

func TestConversionWebhook(t *testing.T) {
	f := newCustomFixture(t)
	var broken atomic.Bool
	hook := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "down", 500)
			return
		}
		convert(w, r)
	}))
	hook.TLS = &tls.Config{Certificates: []tls.Certificate{f.ca.issue(t, "127.0.0.1")}}
	hook.StartTLS()
	defer hook.Close()
	f.define(fmt.Sprintf(addresses, hook.URL, base64.StdEncoding.EncodeToString(f.ca.pem)))
	v1, v2 := "/apis/example.org/v1/namespaces/default/addresses", "/apis/example.org/v2/namespaces/default/addresses"
	f.object(201, "POST", v1, `{"apiVersion":"example.org/v1","kind":"Address","metadata":{"name":"a"},"at":"left:1"}`)
	if got := f.object(200, "GET", v2+"/a", ""); at(got, "host") != "left" || at(got, "port") != "1" || at(got, "at") != nil {
		t.Errorf("read in v2: %v", got.Object)
	}
	f.object(201, "POST", v2, `{"apiVersion":"example.org/v2","kind":"Address","metadata":{"name":"b"},"host":"right","port":"2"}`)
	if got := f.object(200, "GET", v1+"/b", ""); at(got, "at") != "right:2" {
		t.Errorf("written in v2, read in v1: %v", got.Object)
	}
	f.object(200, "PATCH", v2+"/b", `{"port":"3"}`, "Content-Type", "application/merge-patch+json")
	if got := f.object(200, "GET", v1+"/b", ""); at(got, "at") != "right:3" {
		t.Errorf("patched in v2, read in v1: %v", got.Object)
	}
	list := f.object(200, "GET", v2+"?fieldSelector=host%3Dright", "")
	if items, _ := list.Object["items"].([]any); len(items) != 1 {
		t.Errorf("selected by a field of v2: %v, want one", list.Object)
	}
	broken.Store(true)
	if got := f.do(f.admin(), "GET", v2+"/a", ""); got.code != 500 || !strings.Contains(string(got.body), "conversion webhook for example.org/v1, Kind=Address failed") {
		t.Errorf("while the webhook is down: %d %s", got.code, got.body)
	}
	f.object(200, "GET", v1+"/a", "") // needs no conversion
}

// behind is a log whose node hears of others' writes only when it asks.
type behind struct {
	leader, follower *fsm.Machine

	mu    sync.Mutex // a log has one order
	heard [][]byte
}

func (b *behind) catchUp() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.apply()
}

func (b *behind) apply() error {
	for _, cmd := range b.heard {
		if _, err := b.follower.ApplyOne(cmd); err != nil {
			return err
		}
	}
	b.heard = nil
	return nil
}

func (b *behind) Propose(_ context.Context, cmd []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	answer, err := b.leader.ApplyOne(cmd)
	b.heard = append(b.heard, cmd)
	if err != nil {
		return nil, err
	}
	return answer, b.apply()
}

func (b *behind) ReadBarrier(context.Context) error { return b.catchUp() }

// elsewhere writes at another node.
type elsewhere struct{ *behind }

func (e elsewhere) Propose(_ context.Context, cmd []byte) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, cmd)
	return e.leader.ApplyOne(cmd)
}

func (elsewhere) ReadBarrier(context.Context) error { return nil }

// A client creates a definition at one control node, sees that it is established,
// and turns to another, which has not heard of it.
func TestCustomKindIsServedWhereItWasNotHeardOf(t *testing.T) {
	log := &behind{leader: fsm.New(fsm.Config{}), follower: fsm.New(fsm.Config{})}
	there := resource.New(store.New(elsewhere{log}, log.leader), resource.AdmitAll{})
	f := &fixture{t: t, streams: &fakeStreams{}, ca: newCA(t)}
	f.store = store.New(log, log.follower)
	f.serve()
	follower, err := custom.NewFollower(custom.Config{Store: f.store, Registry: f.reg, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return follower.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = group.Wait() })
	<-follower.Synced()

	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "things.example.org"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.org", Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
			}},
		},
	}
	if _, err := there.Create(t.Context(), resource.CustomResourceDefinitions, "", crd, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, _, err = there.Update(t.Context(), resource.CustomResourceDefinitions, "", crd.Name, "status", func(current store.Object) (store.Object, error) {
		now := current.(*apiextensionsv1.CustomResourceDefinition)
		now.Status.AcceptedNames = now.Spec.Names
		now.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
		return now, nil
	}, resource.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.object(201, "POST", "/apis/example.org/v1/things", `{"apiVersion":"example.org/v1","kind":"Thing","metadata":{"name":"a"}}`)
	if got := f.do(f.admin(), "GET", "/apis/example.org/v2/things", ""); got.code != 404 {
		t.Errorf("a version that is not there: %d, want 404", got.code)
	}
}
