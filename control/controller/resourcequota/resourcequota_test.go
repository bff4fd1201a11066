package resourcequota_test

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/resourcequota"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func begin(t *testing.T) *controllertest.Term {
	term := controllertest.Begin(t, storetest.New(t))
	term.Run(resourcequota.New(resourcequota.Config{Registry: term.Registry, Logger: term.Logger}).Run)
	return term
}

func quota(name string, hard ...string) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{}}}
	for _, h := range hard {
		name, amount, _ := strings.Cut(h, ":")
		q.Spec.Hard[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	return q
}

// used waits until a quota's status says so.
func used(t *testing.T, term *controllertest.Term, name string, want map[string]string) {
	t.Helper()
	controllertest.Eventually(t, func() string {
		q, _ := controllertest.Get[*corev1.ResourceQuota](term, store.ResourceQuotas, "default", name)
		got := map[string]string{}
		for name, amount := range q.Status.Used {
			got[string(name)] = amount.String()
		}
		if len(q.Status.Hard) != len(q.Spec.Hard) || fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("quota %s: %v used of %v, want %v", name, got, q.Status.Hard, want)
		}
		return ""
	})
}

func TestQuotaIsCountedWhenItComesAndWhenItChanges(t *testing.T) {
	term := begin(t)
	controllertest.Create(term, kinds.Pods, controllertest.Pod("one"))
	controllertest.Create(term, kinds.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}})
	controllertest.Create(term, kinds.ResourceQuotas, quota("q", "pods:5", "requests.cpu:1", "count/configmaps:3", "count/replicationcontrollers:1"))
	used(t, term, "q", map[string]string{"pods": "1", "requests.cpu": "100m", "count/configmaps": "1", "count/replicationcontrollers": "0"})
	controllertest.Change(term, kinds.ResourceQuotas, "default", "q", "", func(q *corev1.ResourceQuota) {
		q.Spec.Hard = corev1.ResourceList{"configmaps": resource.MustParse("9")}
	})
	used(t, term, "q", map[string]string{"configmaps": "1"})
}

func TestWhatGoesIsGivenBack(t *testing.T) {
	term := begin(t)
	for _, name := range []string{"one", "two", "three"} {
		controllertest.Create(term, kinds.Pods, controllertest.Pod(name))
	}
	controllertest.Create(term, kinds.ResourceQuotas, quota("q", "pods:5"))
	controllertest.Create(term, kinds.ResourceQuotas, quota("best", "pods:5"))
	used(t, term, "q", map[string]string{"pods": "3"})
	term.Delete(kinds.Pods, "default", "one")
	used(t, term, "q", map[string]string{"pods": "2"})
	// A pod that has finished uses nothing any more.
	controllertest.Change(term, kinds.Pods, "default", "two", "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	used(t, term, "q", map[string]string{"pods": "1"})
	used(t, term, "best", map[string]string{"pods": "1"})
}

func TestScopesSelectWhatIsCounted(t *testing.T) {
	term := begin(t)
	controllertest.Create(term, kinds.Pods, controllertest.Pod("asks"))
	plain := controllertest.Pod("plain")
	plain.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	controllertest.Create(term, kinds.Pods, plain)
	for name, scope := range map[string]corev1.ResourceQuotaScope{"best": corev1.ResourceQuotaScopeBestEffort, "not": corev1.ResourceQuotaScopeNotBestEffort} {
		q := quota(name, "pods:5")
		q.Spec.Scopes = []corev1.ResourceQuotaScope{scope}
		controllertest.Create(term, kinds.ResourceQuotas, q)
		used(t, term, name, map[string]string{"pods": "1"})
	}
}

func TestCountingThatChangesNothingWritesNothing(t *testing.T) {
	term := begin(t)
	controllertest.Create(term, kinds.ResourceQuotas, quota("q", "pods:5"))
	used(t, term, "q", map[string]string{"pods": "0"})
	before := term.Settled(0)
	controllertest.Create(term, kinds.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}})
	term.Delete(kinds.ConfigMaps, "default", "data")
	if after := term.Settled(100 * 1e6); after != before+2 {
		t.Errorf("revision %d, want %d: nothing but the object itself", after, before+2)
	}
}
