package managedfields

import (
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/randfill"

	"github.com/musterhq/muster/control/kube"
)

// tracked are the kinds of the scheme that have a schema and metadata.
func tracked(t testing.TB) []schema.GroupVersionKind {
	var kinds []schema.GroupVersionKind
	for kind := range kube.Scheme.AllKnownTypes() {
		obj, err := kube.Scheme.New(kind)
		if err != nil || kind.Version == runtime.APIVersionInternal {
			continue
		}
		if _, err := meta.Accessor(obj); err == nil && newUpdater(kind, "", nil) != nil && newUpdater(kind, "", nil).shape.form == record {
			kinds = append(kinds, kind)
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int { return compareStrings(a.String(), b.String()) })
	if len(kinds) < 10 {
		t.Fatalf("%d kinds have a schema, want all of core/v1 at least", len(kinds))
	}
	return kinds
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// filler makes objects whose parts meet again: few names, and some that JSON
// has to escape.
func filler(seed int64) *randfill.Filler {
	odd := []string{"", `qu"ote`, `back\slash`, "<&>", "ü\u2028", "new\nline", "tab\t\x01"}
	return randfill.NewWithSeed(seed).NilChance(0.4).NumElements(0, 3).Funcs(
		func(s *string, c randfill.Continue) {
			if *s = fmt.Sprint("n", c.Intn(1000)); c.Intn(20) == 0 {
				*s = odd[c.Intn(len(odd))]
			}
		},
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(int64(c.Intn(3)), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			if c.Intn(3) > 0 {
				*t = metav1.NewMicroTime(time.Unix(int64(c.Intn(3)), int64(c.Intn(3)*1000)))
			}
		},
		func(q *resource.Quantity, c randfill.Continue) {
			*q = resource.MustParse([]string{"1", "1000m", "2Gi", "0", "3", "4"}[c.Intn(6)])
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			if *v = intstr.FromInt32(int32(c.Intn(3))); c.Intn(2) == 0 {
				*v = intstr.FromString(fmt.Sprint(c.Intn(3)))
			}
		},
		func(r *runtime.RawExtension, c randfill.Continue) {
			r.Raw = fmt.Appendf(nil, `{"a":%d}`, c.Intn(3))
		},
		func(o *runtime.Object, c randfill.Continue) {},
		func(m *[]metav1.ManagedFieldsEntry, c randfill.Continue) {},
		func(m *metav1.TypeMeta, c randfill.Continue) {},
	)
}

// mix takes parts of other into v here and there.
func mix(r *rand.Rand, v, other reflect.Value) {
	if r.Intn(12) == 0 || v.Type() == reflect.TypeFor[runtime.RawExtension]() {
		v.Set(other)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				mix(r, v.Field(i), other.Field(i))
			}
		}
	case reflect.Pointer:
		if !v.IsNil() && !other.IsNil() {
			mix(r, v.Elem(), other.Elem())
		}
	case reflect.Slice:
		for i := range min(v.Len(), other.Len()) {
			mix(r, v.Index(i), other.Index(i))
		}
		if v.Len() > 1 && r.Intn(4) == 0 {
			a, b := r.Intn(v.Len()), r.Intn(v.Len())
			x, y := reflect.ValueOf(v.Index(a).Interface()), reflect.ValueOf(v.Index(b).Interface())
			v.Index(a).Set(y)
			v.Index(b).Set(x)
		}
	case reflect.Map:
		for _, k := range other.MapKeys() {
			if !v.IsNil() && r.Intn(3) == 0 {
				v.SetMapIndex(k, other.MapIndex(k))
			}
		}
	}
}

// Objects of every kind are created and changed at random by several managers,
// and each step is given to upstream's field manager and to ours. What could go
// wrong: any rule of structured-merge-diff that we have not understood, in any of
// the types that there are, or a schema that is not client-go's any more. The bytes must be the same, and where upstream fails
// we must have given up.
func TestUpdatesRecordWhatUpstreamRecords(t *testing.T) {
	const rounds = 1
	clientGo := applyconfigurations.NewTypeConverter(kube.Scheme)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	taken, all := 0, 0
	for n, kind := range tracked(t) {
		for round := range rounds {
			s := seed + int64(n*1000+round)
			r, fill := rand.New(rand.NewSource(s)), filler(s)
			live, _ := kube.Scheme.New(kind)
			for step := range 5 {
				subresource, reset := "", Reset{}
				switch r.Intn(3) {
				case 0:
					reset.Except = []string{"status"}
				case 1:
					subresource, reset.Except = "status", []string{"spec", "metadata.labels"}
				}
				obj := live.DeepCopyObject()
				other, _ := kube.Scheme.New(kind)
				fill.Fill(other)
				if step == 0 {
					obj = other
				} else {
					mix(r, reflect.ValueOf(obj).Elem(), reflect.ValueOf(other).Elem())
				}
				object, previous := obj.(metav1.Object), live.(metav1.Object)
				object.SetManagedFields(previous.GetManagedFields())
				object.SetUID(previous.GetUID())
				manager := []string{"a", "b", "c"}[r.Intn(3)]
				m := New(kind, subresource, reset)

				want, err := upstream(clientGo, kind, subresource, reset).Update(live.DeepCopyObject(), obj.DeepCopyObject(), manager)
				got, before := obj.DeepCopyObject(), live.DeepCopyObject()
				all++
				switch quick := m.quick().update(before, got, manager, time.Now()); {
				case quick && err != nil:
					t.Fatalf("seed %d: %s: recorded %v where upstream says %v", s, kind, got.(metav1.Object).GetManagedFields(), err)
				case quick:
					taken++
					if g, w := words(got), words(want); !slices.Equal(g, w) {
						t.Fatalf("seed %d: %s through %q by %s:\n got %q\nwant %q", s, kind, subresource, manager, g, w)
					}
				}
				if !reflect.DeepEqual(before, live) {
					t.Fatalf("seed %d: %s: the live object was changed", s, kind)
				}
				if err != nil {
					break
				}
				live = want
				live.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
				live.(metav1.Object).SetUID("1")
			}
		}
	}
	t.Logf("%d of %d updates took the quick way", taken, all)
	if taken < all/2 {
		t.Errorf("%d of %d updates took the quick way, want most", taken, all)
	}
}

// words are managed fields without their times, and without the order that these
// give them.
func words(obj runtime.Object) []string {
	var all []string
	for _, m := range obj.(metav1.Object).GetManagedFields() {
		all = append(all, fmt.Sprint(m.Operation, " ", m.Manager, " ", m.APIVersion, " ", m.Subresource, " ", m.FieldsType, " ", m.Time != nil, " ", m.FieldsV1.GetRawString()))
	}
	slices.Sort(all)
	return all
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{"app": "web", "tier": "front"}, Annotations: map[string]string{"note": "x"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler",
			SecurityContext: &corev1.PodSecurityContext{}, TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{container("web"), container("sidecar")},
			Volumes:    []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable},
	}
}

func container(name string) corev1.Container {
	return corev1.Container{
		Name: name, Image: "example.org/" + name + ":1", Command: []string{"run"}, ImagePullPolicy: corev1.PullIfNotPresent,
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		Env:           []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
		Ports:         []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
		Resources:     corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")}},
		VolumeMounts:  []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80), Scheme: "HTTP"}}, PeriodSeconds: 10},
	}
}

func running(p *corev1.Pod) *corev1.Pod {
	p = p.DeepCopy()
	p.Status.Phase, p.Status.PodIP, p.Status.HostIP = corev1.PodRunning, "10.0.0.1", "192.168.0.1"
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
	for _, t := range []corev1.PodConditionType{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(1, 0)})
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true}, {Name: "sidecar", Ready: true}}
	return p
}

func BenchmarkManagedFields(b *testing.B) {
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	object := New(kind, "", Reset{Except: []string{"status"}})
	status := New(kind, "status", Reset{Except: []string{"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"}})
	created := object.UpdateNoErrors(&corev1.Pod{}, pod(), "kubectl").(*corev1.Pod)
	created.UID = "1"
	ready := status.UpdateNoErrors(created, running(created), "kubelet").(*corev1.Pod)
	failed := ready.DeepCopy()
	failed.Status.Phase, failed.Status.Conditions[2].Status = corev1.PodFailed, corev1.ConditionFalse
	for _, c := range []struct {
		name      string
		manager   *FieldManager
		live, obj *corev1.Pod
	}{
		{"create", object, &corev1.Pod{}, pod()},
		{"running", status, created, running(created)},
		{"failed", status, ready, failed},
	} {
		for _, way := range []string{"upstream", "quick"} {
			b.Run(c.name+"/"+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					obj := *c.obj
					if way == "upstream" {
						if _, err := c.manager.upstream().Update(c.live, &obj, "kubelet"); err != nil {
							b.Fatal(err)
						}
					} else if !c.manager.quick().update(c.live, &obj, "kubelet", time.Now()) {
						b.Fatal("gave up")
					}
				}
			})
		}
	}
}

func BenchmarkApplyAgain(b *testing.B) {
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	m := New(kind, "", Reset{Except: []string{"status"}})
	p := pod()
	p.Status = corev1.PodStatus{}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
	if err != nil {
		b.Fatal(err)
	}
	delete(content, "status")
	delete(content["metadata"].(map[string]any), "creationTimestamp")
	delete(content["spec"].(map[string]any), "securityContext")
	config := &unstructured.Unstructured{Object: content}
	config.SetGroupVersionKind(kind)
	live, err := m.Apply(&corev1.Pod{}, config.DeepCopy(), "kubectl", false)
	if err != nil {
		b.Fatal(err)
	}
	live.(*corev1.Pod).UID = "1"
	b.Run("upstream", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.upstream().Apply(live, config, "kubectl", false); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("quick", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !m.quick().applied(live, config.Object, "kubectl") {
				b.Fatal("not seen")
			}
		}
	})
	b.Run("create", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.Apply(&corev1.Pod{}, config.DeepCopy(), "kubectl", false); err != nil {
				b.Fatal(err)
			}
		}
	})
}
