package apiservice

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// in runs a test in a bubble with its own clock, over a running controller whose
// services answer what *answer says.
func in(t *testing.T, answer *answer, f func(t *testing.T, m *test.Term)) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		probe := func(context.Context, *apiregistrationv1.APIService) (string, error) {
			return "FailedDiscoveryCheck", answer.get()
		}
		m.Run(New(Config{Registry: m.Registry, Probe: probe, Logger: m.Logger}).Run)
		f(t, m)
		m.End()
	})
}

// answer is what a service answers, nil for what it must.
type answer struct {
	mu  sync.Mutex
	err error
}

func (a *answer) get() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *answer) set(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func get(m *test.Term, name string) *apiregistrationv1.APIService {
	for _, s := range test.List[*apiregistrationv1.APIService](m, store.APIServices) {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func available(s *apiregistrationv1.APIService) apiregistrationv1.APIServiceCondition {
	for _, c := range s.Status.Conditions {
		if c.Type == apiregistrationv1.Available {
			return c
		}
	}
	return apiregistrationv1.APIServiceCondition{Status: "none"}
}

func TestWhatIsServedHereHasItsAPIServices(t *testing.T) {
	in(t, &answer{}, func(t *testing.T, m *test.Term) {
		time.Sleep(time.Second)
		for _, name := range []string{"v1.", "v1.apps"} {
			s := get(m, name)
			if s == nil || available(s).Status != apiregistrationv1.ConditionTrue || s.Labels[automanaged] != onStart {
				t.Fatalf("%s: %+v, want it there, available and managed", name, s)
			}
		}
		if s := get(m, "v1.apiregistration.k8s.io"); s != nil {
			t.Error("the group of APIServices has one itself")
		}
		if _, _, err := m.Registry.Delete(t.Context(), resource.APIServices, "", "v1.apps", nil); err != nil {
			t.Fatal(err)
		}
		test.Create(m, resource.APIServices, &apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: "v1.gone.example.org", Labels: map[string]string{automanaged: whileThere}},
			Spec:       apiregistrationv1.APIServiceSpec{Group: "gone.example.org", Version: "v1", GroupPriorityMinimum: 1, VersionPriority: 1},
		})
		time.Sleep(recheck + time.Second)
		if get(m, "v1.apps") == nil {
			t.Error("one that was deleted did not come back")
		}
		if get(m, "v1.gone.example.org") != nil {
			t.Error("one of a group that is not served is still there")
		}
		before := m.Registry.Store().Revision()
		time.Sleep(10 * recheck)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("revision %d, want %d: nothing changed, and something was written", now, before)
		}
	})
}

func TestServiceIsAvailableWhileItAnswers(t *testing.T) {
	var answer answer
	answer.set(errors.New("no endpoints available"))
	in(t, &answer, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.APIServices, &apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.metrics.k8s.io"},
			Spec: apiregistrationv1.APIServiceSpec{
				Group: "metrics.k8s.io", Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
				Service: &apiregistrationv1.ServiceReference{Namespace: "kube-system", Name: "metrics-server"},
			},
		})
		check := func(after time.Duration, status apiregistrationv1.ConditionStatus, reason string) {
			t.Helper()
			time.Sleep(after)
			if c := available(get(m, "v1beta1.metrics.k8s.io")); c.Status != status || c.Reason != reason {
				t.Errorf("%+v, want %s %s", c, status, reason)
			}
		}
		check(time.Second, apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck")
		answer.set(nil)
		check(retry+time.Second, apiregistrationv1.ConditionTrue, "Passed")
		answer.set(errors.New("gone again"))
		check(recheck+time.Second, apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck")
	})
}
