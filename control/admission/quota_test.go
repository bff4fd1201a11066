package admission

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// newQuota creates a quota of which nothing is used, as its controller says.
func newQuota(t *testing.T, r *resource.Registry, name string, hard corev1.ResourceList) {
	t.Helper()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	if _, err := r.Create(t.Context(), resource.ResourceQuotas, "default", quota, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Update(t.Context(), resource.ResourceQuotas, "default", name, "status", func(current store.Object) (store.Object, error) {
		q := current.(*corev1.ResourceQuota)
		q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{}}
		for name := range hard {
			q.Status.Used[name] = apiresource.MustParse("0")
		}
		return q, nil
	}, resource.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func usedOf(t *testing.T, r *resource.Registry, quota string) corev1.ResourceList {
	t.Helper()
	q, err := store.Of[*corev1.ResourceQuota](r.Store(), store.ResourceQuotas).Get(t.Context(), "default", quota)
	if err != nil {
		t.Fatal(err)
	}
	return q.Status.Used
}

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = apiresource.MustParse(pairs[i+1])
	}
	return list
}

func asking(name, cpu string) *corev1.Pod {
	pod := newPod(name)
	pod.Spec.Containers[0].Resources.Requests = amounts("cpu", cpu)
	return pod
}

func TestQuotaIsChargedAndHeldTo(t *testing.T) {
	r := newRegistry(t, Settings{})
	newQuota(t, r, "q", amounts("pods", "2", "requests.cpu", "1", "configmaps", "1"))
	if _, err := create(t, r, "default", asking("one", "700m")); err != nil {
		t.Fatal(err)
	}
	used := usedOf(t, r, "q")
	if cpu, pods := used["requests.cpu"], used["pods"]; cpu.String() != "700m" || pods.String() != "1" {
		t.Errorf("used %v, want one pod and 700m", used)
	}
	_, err := create(t, r, "default", asking("two", "400m"))
	if want := `pods "two" is forbidden: exceeded quota: q, requested: requests.cpu=400m, used: requests.cpu=700m, limited: requests.cpu=1`; !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, err = create(t, r, "default", newPod("silent"))
	if want := `pods "silent" is forbidden: failed quota: q: must specify requests.cpu for: web`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, err := create(t, r, "kube-system", newPod("elsewhere")); err != nil {
		t.Errorf("in a namespace without quotas: %v", err)
	}
	// A try charges nothing, and neither does what is refused afterwards.
	if _, err := r.Create(t.Context(), resource.Pods, "default", asking("two", "100m"), resource.CreateOptions{DryRun: true}); err != nil {
		t.Error(err)
	}
	if _, err := create(t, r, "default", asking("one", "100m")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("error %v, want a conflict of names", err)
	}
	used = usedOf(t, r, "q")
	if cpu := used["requests.cpu"]; cpu.String() != "700m" {
		t.Errorf("used %v, want 700m as before", cpu.String())
	}
}

func TestQuotaThatWasNotCountedYetAdmitsNothing(t *testing.T) {
	r := newRegistry(t, Settings{})
	if _, err := r.Create(t.Context(), resource.ResourceQuotas, "default", &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("pods", "2")},
	}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Update(t.Context(), resource.ResourceQuotas, "default", "q", "status", func(current store.Object) (store.Object, error) {
		current.(*corev1.ResourceQuota).Status.Hard = amounts("pods", "2")
		return current, nil
	}, resource.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, r, "default", newPod("web")); err == nil || !strings.Contains(err.Error(), "status unknown for quota: q, resources: pods") {
		t.Errorf("error %v, want to hear that the quota is not known yet", err)
	}
}

// Three control nodes with eight clients each create at once what there is not
// room for. Each node has an admission of its own, so only the log can keep them
// apart, and each pauses between admission's word and the write, so that the
// others come in between.
func TestQuotaIsExactWhateverComesAtOnce(t *testing.T) {
	s := storetest.New(t)
	var nodes []*resource.Registry
	for range 3 {
		nodes = append(nodes, resource.New(s, paused{New(s, Settings{})}))
	}
	if err := resource.EnsureBootstrap(t.Context(), nodes[0]); err != nil {
		t.Fatal(err)
	}
	addAccounts(t, s)
	newQuota(t, nodes[0], "few", amounts("pods", "20"))
	newQuota(t, nodes[0], "more", amounts("count/pods", "25", "requests.cpu", "10"))
	var created, refused atomic.Int32
	var all sync.WaitGroup
	for i, node := range nodes {
		for client := range 8 {
			all.Go(func() {
				for n := range 3 {
					_, err := create(t, node, "default", asking(fmt.Sprintf("web-%d-%d-%d", i, client, n), "100m"))
					switch {
					case err == nil:
						created.Add(1)
					case strings.Contains(err.Error(), "exceeded quota: few"):
						refused.Add(1)
					default:
						t.Errorf("error %v, want none or a refusal", err)
					}
				}
			})
		}
	}
	all.Wait()
	if created.Load() != 20 || refused.Load() != 52 {
		t.Errorf("%d pods created and %d refused, want 20 and 52", created.Load(), refused.Load())
	}
	few, more := usedOf(t, nodes[0], "few"), usedOf(t, nodes[0], "more")
	pods, count, cpu := few["pods"], more["count/pods"], more["requests.cpu"]
	if pods.Value() != 20 || count.Value() != 20 || cpu.String() != "2" {
		t.Errorf("charged %v and %v, want 20 pods and 2 cores", few, more)
	}
}

// paused waits a moment between admission's last word and the write.
type paused struct{ resource.Admission }

func (p paused) Validate(ctx context.Context, a *resource.Attributes) error {
	err := p.Admission.Validate(ctx, a)
	if err == nil && a.Kind == resource.Pods {
		time.Sleep(time.Millisecond)
	}
	return err
}

func TestQuotaIsChargedForWhatAnUpdateAdds(t *testing.T) {
	r := newRegistry(t, Settings{})
	pod := asking("web", "100m")
	pod.Spec.Containers[0].Resources.Limits = amounts("cpu", "2")
	if _, err := create(t, r, "default", pod); err != nil {
		t.Fatal(err)
	}
	newQuota(t, r, "q", amounts("requests.cpu", "1"))
	resize := func(cpu string) error {
		_, _, err := r.Update(t.Context(), resource.Pods, "default", "web", "resize", func(current store.Object) (store.Object, error) {
			current.(*corev1.Pod).Spec.Containers[0].Resources.Requests = amounts("cpu", cpu)
			return current, nil
		}, resource.UpdateOptions{})
		return err
	}
	if err := resize("600m"); err != nil {
		t.Fatal(err)
	}
	used := usedOf(t, r, "q")
	if cpu := used["requests.cpu"]; cpu.String() != "500m" {
		t.Errorf("used %s, want the 500m that were added", cpu.String())
	}
	if err := resize("1500m"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: requests.cpu=900m, used: requests.cpu=500m, limited: requests.cpu=1") {
		t.Errorf("error %v, want a refusal", err)
	}
}

// Devices are dearer than claims: a quota bounds how many of a class a namespace
// may ask for, however few claims it does so with.
func TestQuotaCountsDevicesByTheirClass(t *testing.T) {
	r := newRegistry(t, Settings{})
	const devices, claims = "x.deviceclass.resource.k8s.io/devices", "count/resourceclaims.resource.k8s.io"
	newQuota(t, r, "q", amounts(devices, "3", claims, "5"))
	put := func(name string, count int64) error {
		claim := newDeviceClaim(name, false)
		claim.Spec.Devices.Requests[0].Exactly.AllocationMode, claim.Spec.Devices.Requests[0].Exactly.Count = resourcev1.DeviceAllocationModeExactCount, count
		_, err := r.Create(t.Context(), resource.ResourceClaims, "default", claim, resource.CreateOptions{})
		return err
	}
	if err := put("a", 2); err != nil {
		t.Fatal(err)
	}
	if err := put("b", 2); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: "+devices+"=2, used: "+devices+"=2, limited: "+devices+"=3") {
		t.Errorf("the fourth device: %v, want it refused", err)
	}
	if err := put("c", 1); err != nil {
		t.Errorf("the third: %v", err)
	}
	used := usedOf(t, r, "q")
	for name, want := range map[corev1.ResourceName]int64{devices: 3, claims: 2} {
		if got := used[name]; got.Value() != want {
			t.Errorf("%s: %v used, want %d", name, got.Value(), want)
		}
	}
}

func TestLimitRangeGivesDefaultsAndBounds(t *testing.T) {
	r := newRegistry(t, Settings{})
	if _, err := r.Create(t.Context(), resource.LimitRanges, "default", &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "limits"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: amounts("cpu", "500m"), DefaultRequest: amounts("cpu", "100m"), Max: amounts("cpu", "1"),
		}}},
	}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod, err := create(t, r, "default", newPod("plain"))
	if err != nil {
		t.Fatal(err)
	}
	resources := pod.Spec.Containers[0].Resources
	if limit, request := resources.Limits["cpu"], resources.Requests["cpu"]; limit.String() != "500m" || request.String() != "100m" ||
		pod.Annotations["kubernetes.io/limit-ranger"] != "LimitRanger plugin set: cpu request for container web; cpu limit for container web" {
		t.Errorf("resources %+v, annotations %v", resources, pod.Annotations)
	}
	large := newPod("large")
	large.Spec.Containers[0].Resources.Limits = amounts("cpu", "2")
	if _, err := create(t, r, "default", large); !apierrors.IsForbidden(err) || err.Error() != `pods "large" is forbidden: maximum cpu usage per Container is 1, but limit is 2` {
		t.Errorf("error %v, want it to be too large", err)
	}
}
