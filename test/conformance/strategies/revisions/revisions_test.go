// Package revisions holds the names and bytes that Muster's controllers keep a
// template's history under against upstream's: the same manifests go through both. A cluster's
// manifests that are brought from one to the other must not roll out again.
package revisions

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/flowcontrol"
	upstream "k8s.io/kubernetes/pkg/controller"
	upstreamdaemon "k8s.io/kubernetes/pkg/controller/daemon"
	upstreamdeployment "k8s.io/kubernetes/pkg/controller/deployment"
	upstreamstateful "k8s.io/kubernetes/pkg/controller/statefulset"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/daemonset"
	"github.com/musterhq/muster/control/controller/deployment"
	"github.com/musterhq/muster/control/controller/statefulset"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestHashesOfTemplatesAreUpstreams(t *testing.T) {
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), serializer.NewCodecFactory(scheme.Scheme))
	for range 500 {
		var template corev1.PodTemplateSpec
		fill.Fill(&template)
		for _, collisions := range []*int32{nil, ptr.To[int32](0), ptr.To[int32](7)} {
			if got, want := controller.TemplateHash(&template, collisions), upstream.ComputeHash(&template, collisions); got != want {
				t.Fatalf("hash %s with %v collisions, upstream's is %s, of %+v", got, ptr.Deref(collisions, -1), want, template)
			}
		}
	}
}

// templates are written as people write them, with what may be written in several ways.
var templates = []string{
	`{containers: [{name: a, image: "x:1"}]}`,
	`{containers: [{name: a, image: x, resources: {requests: {cpu: "0.5", memory: 1024Mi}, limits: {cpu: "1", memory: 1.5Gi}}}, {name: b, image: x, env: [{name: A, value: "1"}, {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]}`,
	`{initContainers: [{name: i, image: x, restartPolicy: Always}], containers: [{name: a, image: x, ports: [{containerPort: 80}], livenessProbe: {httpGet: {path: /, port: 80}}, readinessProbe: {tcpSocket: {port: web}, periodSeconds: 3}, securityContext: {runAsUser: 5, capabilities: {drop: [ALL]}}}]}`,
	`{containers: [{name: a, image: x, volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}, {name: c, configMap: {name: c}}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}], tolerations: [{key: k, operator: Exists, effect: NoExecute, tolerationSeconds: 3}], nodeSelector: {a: b, c: d}}`,
	`{containers: [{name: a, image: x}], affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 3, podAffinityTerm: {topologyKey: z, labelSelector: {matchExpressions: [{key: a, operator: In, values: [b, c]}]}}}]}}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {a: b}}}], terminationGracePeriodSeconds: 5, hostAliases: [{ip: 10.0.0.1, hostnames: [h]}]}`,
}

func template(t *testing.T, app, spec string) corev1.PodTemplateSpec {
	t.Helper()
	made := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}, Annotations: map[string]string{"note": spec[:10]}}}
	if err := yaml.UnmarshalStrict([]byte(spec), &made.Spec); err != nil {
		t.Fatal(err)
	}
	return made
}

// kept is what stands for a template: its name, its labels, and the bytes of a revision.
type kept map[string]string

func keptOf(sets []*appsv1.ReplicaSet, revisions []*appsv1.ControllerRevision) kept {
	k := kept{}
	for _, rs := range sets {
		k["replica set "+rs.Name] = fmt.Sprint(rs.Labels, rs.Spec.Selector, rs.Spec.Template.Labels)
	}
	for _, r := range revisions {
		k["revision "+r.Name] = fmt.Sprint(r.Revision, r.Labels, r.Annotations, " ", string(r.Data.Raw))
	}
	return k
}

func TestTemplatesAreKeptAsUpstreamKeepsThem(t *testing.T) {
	m := test.Begin(t, storetest.New(t))
	m.Run(
		deployment.New(deployment.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: slog.New(slog.DiscardHandler)}).Run,
		statefulset.New(statefulset.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		daemonset.New(daemonset.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
	)
	for i, spec := range templates {
		meta := metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("app", i), Annotations: map[string]string{"of": "the owner"}}
		pods := template(t, meta.Name, spec)
		selector := &metav1.LabelSelector{MatchLabels: pods.Labels}
		test.Create(m, resource.Deployments, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: pods, Replicas: ptr.To[int32](0)}})
		test.Create(m, resource.StatefulSets, &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: pods, Replicas: ptr.To[int32](0), ServiceName: "x"}})
		test.Create(m, resource.DaemonSets, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pods}})
	}
	// Upstream's are given what they would read: amounts as they are stored, which hashes tell from
	// how they were written.
	var objects []runtime.Object
	for _, list := range [][]runtime.Object{
		read(test.List[*appsv1.Deployment](m, store.Deployments)), read(test.List[*appsv1.StatefulSet](m, store.StatefulSets)), read(test.List[*appsv1.DaemonSet](m, store.DaemonSets)),
	} {
		objects = append(objects, list...)
	}
	want := upstreams(t, objects, 3*len(templates))
	var got kept
	test.Eventually(t, func() string {
		got = keptOf(test.List[*appsv1.ReplicaSet](m, store.ReplicaSets), test.List[*appsv1.ControllerRevision](m, store.ControllerRevisions))
		if len(got) < len(want) {
			return fmt.Sprintf("%d sets and revisions, want %d", len(got), len(want))
		}
		return ""
	})
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s:\n%s\nupstream's is\n%s", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// upstreams runs upstream's controllers over the same objects until so many things were made.
func upstreams(t *testing.T, objects []runtime.Object, count int) kept {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	apps, core := factory.Apps().V1(), factory.Core().V1()
	deployments, err := upstreamdeployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), core.Pods(), client)
	if err != nil {
		t.Fatal(err)
	}
	daemons, err := upstreamdaemon.NewDaemonSetsController(ctx, apps.DaemonSets(), apps.ControllerRevisions(), core.Pods(), core.Nodes(), client, flowcontrol.NewBackOff(time.Second, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	stateful := upstreamstateful.NewStatefulSetController(ctx, core.Pods(), apps.StatefulSets(), core.PersistentVolumeClaims(), apps.ControllerRevisions(), client)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go deployments.Run(ctx, 1)
	go daemons.Run(ctx, 1)
	go stateful.Run(ctx, 1)
	var made kept
	test.Eventually(t, func() string {
		sets, err := client.AppsV1().ReplicaSets("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		revisions, err := client.AppsV1().ControllerRevisions("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		made = keptOf(pointers(sets.Items), pointers(revisions.Items))
		if len(made) < count {
			return fmt.Sprintf("upstream made %d of %d", len(made), count)
		}
		return ""
	})
	return made
}

func read[T runtime.Object](list []T) (objects []runtime.Object) {
	for _, obj := range list {
		objects = append(objects, obj)
	}
	return objects
}

func pointers[T any](items []T) (all []*T) {
	for i := range items {
		all = append(all, &items[i])
	}
	return all
}
