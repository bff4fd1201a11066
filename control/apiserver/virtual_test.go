package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
)

// Old clients bind by creating a binding, which names its pod itself.
func TestABindingByItselfGivesItsPodToANode(t *testing.T) {
	f := newFixture(t)
	f.object(201, "POST", "/api/v1/namespaces/default/pods", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web"},"spec":{"containers":[{"name":"a","image":"b"}]}}`)
	const path = "/api/v1/namespaces/default/bindings"
	const binding = `{"kind":"Binding","apiVersion":"v1","metadata":{"name":"NAME"},"target":{"kind":"Node","name":"n1"}}`
	if got := f.do(f.admin(), "POST", path, strings.Replace(binding, "NAME", "none", 1)); got.code != 404 {
		t.Errorf("of a pod that is not there: %d %s", got.code, got.body)
	}
	if got := f.do(f.admin(), "POST", path, strings.Replace(binding, "NAME", "web", 1)); got.code != 201 {
		t.Fatalf("%d %s", got.code, got.body)
	}
	if pod := f.object(200, "GET", "/api/v1/namespaces/default/pods/web", ""); at(pod, "spec.nodeName") != "n1" {
		t.Errorf("the pod is on %v, want n1", at(pod, "spec.nodeName"))
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", path, 405}, {"POST", "/api/v1/bindings", 405}, {"GET", path + "/web", 404}} {
		if got := f.do(f.admin(), c.method, c.path, strings.Replace(binding, "NAME", "web", 1)); got.code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got.code, c.want)
		}
	}
}

func TestComponentsAreAsHealthyAsTheLeader(t *testing.T) {
	f := newFixture(t)
	const path = "/api/v1/componentstatuses"
	healthy := func() (all []string) {
		var list corev1.ComponentStatusList //nolint:staticcheck // served all the same
		got := f.do(f.admin(), "GET", path, "")
		if err := json.Unmarshal(got.body, &list); err != nil || got.code != 200 {
			t.Fatalf("%d %s: %v", got.code, got.body, err)
		}
		if warned := got.header.Get("Warning"); !strings.Contains(warned, "v1 ComponentStatus is deprecated in v1.19+") {
			t.Errorf("warning %q", warned)
		}
		for _, c := range list.Items {
			if c.Conditions[0].Status == corev1.ConditionTrue {
				all = append(all, c.Name)
			}
		}
		return all
	}
	if got := strings.Join(healthy(), " "); got != "scheduler controller-manager etcd-0" {
		t.Errorf("healthy: %q, want all three", got)
	}
	if got := f.object(200, "GET", path+"/etcd-0", ""); got.GetName() != "etcd-0" || got.GetKind() != "ComponentStatus" {
		t.Errorf("etcd-0: %v", got.Object)
	}
	if got := f.do(f.admin(), "GET", path+"/none", ""); got.code != 404 {
		t.Errorf("one that is not there: %d", got.code)
	}
	if got := f.do(f.admin(), "GET", path+"?fieldSelector=metadata.name%3Detcd-0", ""); strings.Count(string(got.body), `"conditions"`) != 1 {
		t.Errorf("selected: %s", got.body)
	}
	var table metav1.Table
	got := f.do(f.admin(), "GET", path, "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	if err := json.Unmarshal(got.body, &table); err != nil || len(table.Rows) != 3 || table.ColumnDefinitions[1].Name != "Status" || table.Rows[0].Cells[1] != "Healthy" {
		t.Errorf("as a table: %s, %v", got.body, err)
	}
	f.log.Refuse(errNoQuorum)
	if got := healthy(); len(got) != 0 {
		t.Errorf("%v are healthy without a quorum", got)
	}
}

// refusesTokens is admission that notes what it is asked about, and refuses it.
type refusesTokens struct {
	resource.AdmitAll
	asked []string
}

var errRefused = errors.New("no")

func (r *refusesTokens) Validate(_ context.Context, a *resource.Attributes) error {
	if a.Subresource != "token" {
		return nil
	}
	request := a.Object.(*authenticationv1.TokenRequest)
	r.asked = append(r.asked, a.Name+" for "+request.Spec.BoundObjectRef.Name)
	return a.Forbidden(errRefused)
}

// A stolen node certificate must not get tokens of pods that run elsewhere.
func TestAdmissionSeesTokenRequests(t *testing.T) {
	chain := &refusesTokens{}
	f := newFixture(t, func(c *Config) {
		c.ServiceAccounts = fakeAccounts{}
		c.Registry = resource.New(c.Store, chain)
	})
	got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/serviceaccounts/robot/token",
		`{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{"audiences":["a"],"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"web"}}}`)
	if got.code != 403 || len(chain.asked) != 1 || chain.asked[0] != "robot for web" {
		t.Errorf("%d %s, asked %v; want it refused", got.code, got.body, chain.asked)
	}
}
