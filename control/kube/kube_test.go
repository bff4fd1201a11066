package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPod() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "web", Image: "example.org/web:1",
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}},
		}}},
	}
}

func TestCodecsReadEachOthersMeaning(t *testing.T) {
	want := newPod()
	for _, media := range []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"} {
		info, ok := runtime.SerializerInfoForMediaType(Codecs.SupportedMediaTypes(), media)
		if !ok {
			t.Errorf("no serializer for %s", media)
			continue
		}
		data, err := runtime.Encode(info.Serializer, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := runtime.Decode(info.Serializer, data)
		if err != nil {
			t.Fatal(err)
		}
		got.GetObjectKind().SetGroupVersionKind(want.GroupVersionKind())
		if diff := cmp.Diff(runtime.Object(want), got); diff != "" {
			t.Errorf("%s: %s", media, diff)
		}
	}
}

func TestStrictDecodingNamesEveryField(t *testing.T) {
	info, _ := runtime.SerializerInfoForMediaType(Codecs.SupportedMediaTypes(), "application/yaml")
	_, _, err := info.StrictSerializer.Decode([]byte(`
apiVersion: v1
kind: Pod
metadata: {name: web, nmae: x}
spec:
  containers:
  - {name: a, imag: b}
  hostNetwork: true
  hostNetwork: false
`), nil, nil)
	if !runtime.IsStrictDecodingError(err) {
		t.Fatalf("error %v, want a strict one", err)
	}
	for _, want := range []string{`unknown field "metadata.nmae"`, `unknown field "spec.containers[0].imag"`, `key "hostNetwork" already set`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestDefaultsAreKubernetes(t *testing.T) {
	pod := newPod()
	Default(pod)
	c := pod.Spec.Containers[0]
	got := fmt.Sprintln(pod.Spec.RestartPolicy, pod.Spec.DNSPolicy, *pod.Spec.TerminationGracePeriodSeconds, c.ImagePullPolicy,
		c.TerminationMessagePath, c.ReadinessProbe.TimeoutSeconds, c.ReadinessProbe.HTTPGet.Path)
	if want := "Always ClusterFirst 30 IfNotPresent /dev/termination-log 1 /\n"; got != want {
		t.Errorf("defaults %q, want %q", got, want)
	}
}

func TestAliasesAgree(t *testing.T) {
	pod := newPod()
	pod.Spec.DeprecatedServiceAccount = "robot"
	pod.Status.PodIP = "10.0.0.1"
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.1.0.0/24", ProviderID: "x"}}
	for _, obj := range []runtime.Object{pod, node} {
		Default(obj)
		if err := Normalize(obj); err != nil {
			t.Fatal(err)
		}
	}
	if pod.Spec.ServiceAccountName != "robot" || len(pod.Status.PodIPs) != 1 {
		t.Errorf("serviceAccountName %q, podIPs %v; want robot and the address", pod.Spec.ServiceAccountName, pod.Status.PodIPs)
	}
	if pod.Kind != "Pod" || pod.Labels["app"] != "web" || pod.Spec.Containers[0].ReadinessProbe == nil {
		t.Errorf("%+v, want nothing else changed", pod)
	}
	if len(node.Spec.PodCIDRs) != 1 || node.Spec.PodCIDR != "10.1.0.0/24" || node.Spec.ProviderID != "x" {
		t.Errorf("%+v, want podCIDRs as podCIDR", node.Spec)
	}
	secret := &corev1.Secret{Data: map[string][]byte{"a": []byte("1")}, StringData: map[string]string{"b": "2"}}
	if err := Normalize(secret); err != nil || string(secret.Data["a"]) != "1" || string(secret.Data["b"]) != "2" || secret.StringData != nil {
		t.Errorf("%+v, %v; want stringData in data and nowhere else", secret, err)
	}
	if err := Normalize(&metav1.Table{}); err != nil {
		t.Errorf("a kind without an internal form: %v", err)
	}
}

func TestFieldSelectors(t *testing.T) {
	core := corev1.SchemeGroupVersion
	for _, test := range []struct {
		kind     string
		selector string
		ok       bool
	}{
		{"Pod", "metadata.name=a,metadata.namespace=b,spec.nodeName=n,spec.restartPolicy=Always,spec.schedulerName=s,spec.serviceAccountName=x", true},
		{"Pod", "spec.hostNetwork=true,status.phase!=Failed,status.podIP=1.2.3.4,status.nominatedNodeName=n", true},
		{"Pod", "spec.host=n", true}, // an old name of spec.nodeName
		{"Pod", "spec.image=x", false},
		{"Node", "metadata.name=a,spec.unschedulable=true", true},
		{"Node", "status.phase=x", false},
		{"Namespace", "metadata.name=a,status.phase=Active", true},
		{"ReplicationController", "metadata.name=a,status.replicas=1", true},
		{"Event", "involvedObject.kind=Pod,involvedObject.namespace=a,involvedObject.name=b,involvedObject.uid=c,involvedObject.fieldPath=x", true},
		{"Secret", "metadata.name=a,type=Opaque", true},
		{"ConfigMap", "data=x", false},
		{"Event", "reason=a,reportingComponent=b,source=c,type=Warning", true},
	} {
		parsed, err := fields.ParseSelector(test.selector)
		if err != nil {
			t.Fatal(err)
		}
		got, err := FieldSelector(core.WithKind(test.kind), parsed)
		if (err == nil) != test.ok {
			t.Errorf("%s %s: error %v, want ok %t", test.kind, test.selector, err, test.ok)
		}
		if err == nil && strings.Contains(test.selector, "spec.host=") && got.String() != "spec.nodeName=n" {
			t.Errorf("%s became %s, want the current name", test.selector, got)
		}
	}
}

// Rules that are only declared would be lost by calling the hand-written ones
// alone, and those that are both must not be told twice.
func TestDeclaredRulesAreHeldToo(t *testing.T) {
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b"}, Spec: autoscalingv1.ScaleSpec{Replicas: -1}}
	old := scale.DeepCopy()
	old.Spec.Replicas = 1
	errs := ValidateScaleUpdate(t.Context(), scale, old)
	if len(errs) != 1 || errs[0].Field != "spec.replicas" {
		t.Errorf("errors %v, want one about spec.replicas", errs)
	}

	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:       corev1.ReplicationControllerSpec{Selector: map[string]string{"app": "web"}, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: newPod().Spec}},
	}
	Default(rc)
	*rc.Spec.Replicas, rc.Spec.MinReadySeconds = -1, -1
	found := ValidateReplicationController(t.Context(), rc)
	all := Declared(t.Context(), rc, nil, found, nil, "")
	count := map[string]int{}
	for _, e := range all {
		count[e.Field]++
	}
	if len(all) != 2 || count["spec.replicas"] != 1 || count["spec.minReadySeconds"] != 1 {
		t.Errorf("errors %v, want each field once", all)
	}
	if errs := Declared(t.Context(), rc, nil, nil, nil, ""); len(errs) == 0 {
		t.Error("no declared rule was held")
	}
}

func TestTablesShowWhatKubectlGetShows(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	pod := newPod()
	pod.Spec.NodeName = "n1"
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}
	table, err := Table(t.Context(), pods, pod)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	if want := "[Name Ready Status Restarts Age IP Node Nominated Node Readiness Gates]"; fmt.Sprint(names) != want {
		t.Errorf("columns %v, want %s", names, want)
	}
	row := table.Rows[0]
	if row.Cells[0] != "web" || row.Cells[1] != "0/1" || row.Cells[5] != "10.0.0.1" || row.Cells[6] != "n1" {
		t.Errorf("row %v", row.Cells)
	}
	if row.Object.Object != runtime.Object(pod) {
		t.Errorf("row's object is a %T, want the pod itself", row.Object.Object)
	}

	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "more"}, Items: []corev1.Pod{*pod, *pod}}
	list.Items[1].Name = "api"
	table, err = Table(t.Context(), pods, list)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 2 || table.Rows[1].Cells[0] != "api" || table.ResourceVersion != "7" || table.Continue != "more" {
		t.Errorf("table %+v, want both pods and the list's metadata", table)
	}
	if second, ok := table.Rows[1].Object.Object.(*corev1.Pod); !ok || second.Name != "api" {
		t.Errorf("second row's object %v, want api", table.Rows[1].Object.Object)
	}

	table, err = Table(t.Context(), schema.GroupResource{Resource: "things"}, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "x"}})
	if err != nil || len(table.Rows) != 1 || table.Rows[0].Cells[0] != "x" {
		t.Errorf("a kind without columns: %+v, %v; want its name", table, err)
	}
}

func TestPreparePod(t *testing.T) {
	pod := newPod()
	term := corev1.PodAffinityTerm{
		LabelSelector:  &metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}},
		MatchLabelKeys: []string{"app", "absent"}, TopologyKey: "host",
	}
	none := corev1.PodAffinityTerm{MatchLabelKeys: []string{"app"}, TopologyKey: "host"}
	pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term, none}}}
	pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		LabelSelector: &metav1.LabelSelector{}, MatchLabelKeys: []string{"app"}, MaxSkew: 1, TopologyKey: "host", WhenUnsatisfiable: corev1.DoNotSchedule,
	}}
	pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
	pod.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "web": "runtime/default"}
	PreparePod(context.Background(), pod)

	required := pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if e := required[0].LabelSelector.MatchExpressions; len(e) != 1 || e[0].Key != "app" || e[0].Values[0] != "web" {
		t.Errorf("affinity requires %v, want app in (web)", e)
	}
	if required[1].LabelSelector != nil {
		t.Errorf("a selector that matches nothing became %v", required[1].LabelSelector)
	}
	if e := pod.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions; len(e) != 1 || e[0].Key != "app" {
		t.Errorf("spread requires %v, want app in (web)", e)
	}
	if c := pod.Status.Conditions; len(c) != 1 || c[0].Reason != corev1.PodReasonSchedulingGated {
		t.Errorf("conditions %v, want SchedulingGated", c)
	}
	if sc := pod.Spec.Containers[0].SecurityContext; sc == nil || sc.AppArmorProfile == nil || sc.AppArmorProfile.Type != corev1.AppArmorProfileTypeRuntimeDefault {
		t.Errorf("security context %v, want the annotation's profile", sc)
	}
	if pod.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("QoS class %q, want BestEffort", pod.Status.QOSClass)
	}
}

// Some rules are for pods and not for the templates that pods are made of.
func TestPodsAreHeldToMoreThanTemplates(t *testing.T) {
	pod := newPod()
	pod.Spec.HostNetwork = true
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
	Default(pod)
	pod.Spec.Containers[0].Ports[0].HostPort = 0
	errs := ValidatePod(t.Context(), pod)
	if len(errs) != 1 || errs[0].Field != "spec.containers[0].ports[0].hostPort" {
		t.Errorf("errors %v, want one about hostPort", errs)
	}
}

func TestDisabledFieldsGoUnlessInUse(t *testing.T) {
	node := &corev1.Node{Spec: corev1.NodeSpec{ConfigSource: &corev1.NodeConfigSource{}}}
	DropDisabledNodeFields(node, &corev1.Node{Spec: corev1.NodeSpec{ConfigSource: &corev1.NodeConfigSource{}}})
	if node.Spec.ConfigSource == nil {
		t.Error("a field in use was dropped on update")
	}
	DropDisabledNodeFields(node, &corev1.Node{})
	if node.Spec.ConfigSource != nil {
		t.Error("a field not in use was kept on update")
	}
}

func BenchmarkValidatePod(b *testing.B) {
	pod := newPod()
	Default(pod)
	PreparePod(b.Context(), pod)
	b.ReportAllocs()
	for b.Loop() {
		if errs := Declared(b.Context(), pod, nil, ValidatePod(b.Context(), pod), nil, ""); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}
