package scheduling

import (
	"fmt"
	"math/rand/v2"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/scheduler"
)

// maker makes random clusters in which everything meets everything: few names, few
// values, so that rules are about something.
type maker struct {
	*rand.Rand
	made int
	// stored says that the cluster has storage, waiting that many claims of it are not bound;
	// once are those that a placed pod has alone.
	stored, waiting bool
	once            map[string]bool
}

func (m *maker) one(of ...string) string { return of[m.IntN(len(of))] }
func (m *maker) often() bool             { return m.IntN(2) == 0 }
func (m *maker) sometimes() bool         { return m.IntN(5) == 0 }

func (m *maker) state() scheduler.State {
	var s scheduler.State
	for i := range 3 {
		s.Namespaces = append(s.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint("ns", i), Labels: map[string]string{"team": m.one("a", "b")}}})
	}
	for i := range 1 + m.IntN(12) {
		s.Nodes = append(s.Nodes, m.node(fmt.Sprint("n", i)))
	}
	for _, ns := range s.Namespaces {
		if m.often() {
			s.Services = append(s.Services, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "s"},
				Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": m.one("x", "y")}}})
		}
		s.ReplicaSets = append(s.ReplicaSets, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "keeper"}, Spec: appsv1.ReplicaSetSpec{Selector: m.selector()}})
		s.StatefulSets = append(s.StatefulSets, &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "keeper"}, Spec: appsv1.StatefulSetSpec{Selector: m.selector()}})
		s.ReplicationControllers = append(s.ReplicationControllers, &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "keeper"},
			Spec:       corev1.ReplicationControllerSpec{Selector: map[string]string{"app": m.one("x", "y", "z")}}})
	}
	if m.IntN(3) == 0 {
		m.store(&s)
	}
	for range m.IntN(30) {
		p := m.pod()
		p.Spec.NodeName = s.Nodes[m.IntN(len(s.Nodes))].Name
		m.settle(p, &s)
		m.run(p)
		s.Pods = append(s.Pods, p)
	}
	return s
}

func (m *maker) list(pods bool) corev1.ResourceList {
	l := corev1.ResourceList{}
	put := func(name corev1.ResourceName, quantity string) { l[name] = resource.MustParse(quantity) }
	if pods {
		put("cpu", m.one("0", "1500m", "4", "16"))
		put("memory", m.one("0", "2Gi", "8Gi", "64Gi"))
		put("ephemeral-storage", "20Gi")
		put("pods", m.one("3", "110"))
		put("example.com/gpu", m.one("0", "2"))
		put("hugepages-2Mi", m.one("0", "8Mi"))
		if m.often() {
			put("example.org/fpga", m.one("1", "7"))
		}
		return l
	}
	if m.often() {
		put("cpu", m.one("0", "100m", "1", "3"))
	}
	if m.often() {
		put("memory", m.one("0", "100Mi", "1Gi", "3Gi"))
	}
	if m.sometimes() {
		put("ephemeral-storage", m.one("1Gi", "30Gi"))
	}
	if m.sometimes() {
		put("example.com/gpu", "1")
	}
	if m.sometimes() {
		put("example.org/fpga", m.one("0", "1", "3"))
	}
	if m.IntN(10) == 0 {
		put("hugepages-2Mi", m.one("2Mi", "6Mi"))
	}
	return l
}

func (m *maker) node(name string) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": m.one("ssd", "hdd"), "cores": m.one("4", "8")}},
		Status: corev1.NodeStatus{
			Allocatable: m.list(true),
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	if !m.sometimes() {
		n.Labels[corev1.LabelHostname] = name
	}
	if !m.sometimes() {
		n.Labels[corev1.LabelTopologyZone] = m.one("a", "b", "c")
	}
	if m.sometimes() {
		n.Spec.Unschedulable = true
	}
	if m.often() {
		n.Status.DeclaredFeatures = []string{"RestartAllContainersOnContainerExits"}
		if m.often() {
			n.Status.DeclaredFeatures = append(n.Status.DeclaredFeatures, "UserNamespacesHostNetworkSupport")
		}
	}
	for m.sometimes() {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{
			Key: m.one("k", "l"), Value: m.one("", "v"),
			Effect: corev1.TaintEffect(m.one("NoSchedule", "PreferNoSchedule", "PreferNoSchedule", "NoExecute"))})
	}
	for _, image := range []string{"registry.example/a:1", "registry.example/b:latest", "registry.example/c@sha256:0123"} {
		if m.often() {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
				Names: []string{image, image + "-alias"}, SizeBytes: m.Int64N(3000) << 20})
		}
	}
	return n
}

func (m *maker) selector() *metav1.LabelSelector {
	switch m.IntN(8) {
	case 0:
		return &metav1.LabelSelector{}
	case 1:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{m.one("x", "y")}}}}
	case 2:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "version", Operator: metav1.LabelSelectorOperator(m.one("Exists", "DoesNotExist"))}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": m.one("x", "y", "z")}}
}

func (m *maker) term() corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{
		TopologyKey:   m.one(corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyZone, "disk"),
		LabelSelector: m.selector(),
	}
	switch m.IntN(6) {
	case 0:
		t.Namespaces = []string{m.one("ns0", "ns1"), m.one("ns1", "ns2")}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{}
	case 2:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": m.one("a", "b")}}
	case 3:
		t.LabelSelector = nil
	}
	if m.sometimes() { // admission has merged them into the selector, and nobody reads them again
		t.MatchLabelKeys, t.MismatchLabelKeys = []string{"app"}, []string{"version"}
	}
	return t
}

func (m *maker) weighted() corev1.WeightedPodAffinityTerm {
	return corev1.WeightedPodAffinityTerm{Weight: int32(1 + m.IntN(100)), PodAffinityTerm: m.term()}
}

func (m *maker) nodeTerm() corev1.NodeSelectorTerm {
	switch m.IntN(4) {
	case 0:
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cores", Operator: "Gt", Values: []string{"5"}}}}
	case 1:
		return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOperator(m.one("In", "NotIn")), Values: []string{m.one("n0", "n1")}}}}
	}
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOperator(m.one("In", "NotIn")), Values: []string{m.one("a", "b")}}}}
}

func (m *maker) pod() *corev1.Pod {
	m.made++
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.one("ns0", "ns1", "ns2"), Name: fmt.Sprint("p", m.made), UID: types.UID(fmt.Sprint("uid", m.made)),
			Labels: map[string]string{"app": m.one("x", "y", "z")},
		},
		Spec: corev1.PodSpec{SchedulerName: m.one(schedulers...)},
	}
	if m.sometimes() {
		p.Labels["version"] = m.one("1", "2")
	}
	for i := range 1 + m.IntN(2) {
		c := m.container()
		c.Name = fmt.Sprint("c", i)
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	for m.IntN(3) == 0 {
		c := m.container()
		c.Name = fmt.Sprint("i", len(p.Spec.InitContainers))
		if m.often() {
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	if m.sometimes() {
		p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse(m.one("10m", "700m")), "memory": resource.MustParse("300Mi")}
	}
	if m.sometimes() {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: m.list(false)} // for the pod as a whole
		delete(p.Spec.Resources.Requests, "ephemeral-storage")
		delete(p.Spec.Resources.Requests, "example.com/gpu")
	}
	if m.IntN(10) == 0 {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{
			Image: &corev1.ImageVolumeSource{Reference: m.one("registry.example/a:1", "registry.example/b")}}})
	}
	if m.IntN(10) == 0 {
		p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleAction(m.one("Restart", "RestartAllContainers"))}}
	}
	if m.IntN(20) == 0 {
		p.Spec.HostNetwork, p.Spec.HostUsers = m.often(), ptr.To(m.often())
	}
	if m.often() {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: m.one("ReplicaSet", "StatefulSet", "DaemonSet"), Name: "keeper", UID: "k", Controller: ptr.To(true)}}
		if m.sometimes() {
			p.OwnerReferences[0].APIVersion, p.OwnerReferences[0].Kind = "v1", "ReplicationController"
		}
	}
	for m.sometimes() {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{
			Key: m.one("k", "l", corev1.TaintNodeUnschedulable), Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffect(m.one("", "NoSchedule", "PreferNoSchedule"))})
	}
	if m.sometimes() {
		p.Spec.NodeSelector = map[string]string{"disk": m.one("ssd", "hdd")}
	}
	m.affinity(p)
	for m.IntN(3) == 0 {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, m.constraint())
	}
	if m.stored {
		m.mounts(p)
	}
	return p
}

// run gives a placed pod what its node's agent says of it: some are being resized,
// some are on their way out.
func (m *maker) run(p *corev1.Pod) {
	if m.sometimes() {
		p.DeletionTimestamp = ptr.To(metav1.Now())
	}
	if !m.sometimes() {
		return
	}
	state := func(c *corev1.Container) (s corev1.ContainerStatus) {
		s.Name = c.Name
		if m.often() {
			s.AllocatedResources = m.list(false)
		}
		if m.often() {
			s.Resources = &corev1.ResourceRequirements{}
			if m.often() {
				s.Resources.Requests = m.list(false)
			}
		}
		return s
	}
	for i := range p.Spec.Containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, state(&p.Spec.Containers[i]))
	}
	for i := range p.Spec.InitContainers {
		p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, state(&p.Spec.InitContainers[i]))
	}
	if m.often() {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: m.one(corev1.PodReasonInfeasible, corev1.PodReasonDeferred)})
	}
	if m.often() {
		p.Status.AllocatedResources = m.list(false)
		p.Status.Resources = &corev1.ResourceRequirements{Requests: m.list(false)}
	}
}

func (m *maker) affinity(p *corev1.Pod) {
	a := &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}, PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
	if m.sometimes() {
		a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{m.nodeTerm(), m.nodeTerm()}}
	}
	for m.sometimes() {
		a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.PreferredSchedulingTerm{Weight: int32(1 + m.IntN(100)), Preference: m.nodeTerm()})
	}
	for m.sometimes() {
		a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, m.term())
	}
	for m.sometimes() {
		a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, m.term())
	}
	for m.sometimes() {
		a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, m.weighted())
	}
	for m.sometimes() {
		a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, m.weighted())
	}
	p.Spec.Affinity = a
}

func (m *maker) constraint() corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{
		MaxSkew: int32(1 + m.IntN(3)), TopologyKey: m.one(corev1.LabelHostname, corev1.LabelTopologyZone, "disk"),
		WhenUnsatisfiable: corev1.UnsatisfiableConstraintAction(m.one("DoNotSchedule", "ScheduleAnyway")), LabelSelector: m.selector(),
	}
	if c.WhenUnsatisfiable == corev1.DoNotSchedule && m.sometimes() {
		c.MinDomains = ptr.To(int32(1 + m.IntN(4)))
	}
	if m.sometimes() {
		c.NodeAffinityPolicy = ptr.To(corev1.NodeInclusionPolicy(m.one("Honor", "Ignore")))
	}
	if m.sometimes() {
		c.NodeTaintsPolicy = ptr.To(corev1.NodeInclusionPolicy(m.one("Honor", "Ignore")))
	}
	if m.sometimes() {
		c.MatchLabelKeys = []string{m.one("app", "version")}
	}
	if m.sometimes() {
		c.LabelSelector = nil
	}
	return c
}

func (m *maker) container() corev1.Container {
	c := corev1.Container{
		Image:     m.one("registry.example/a:1", "registry.example/b", "registry.example/c@sha256:0123", "registry.example/none"),
		Resources: corev1.ResourceRequirements{Requests: m.list(false)},
	}
	if m.sometimes() {
		c.Ports = []corev1.ContainerPort{{HostIP: m.one("", "0.0.0.0", "10.0.0.1", "10.0.0.2"), HostPort: int32(80 + m.IntN(2)), Protocol: corev1.Protocol(m.one("TCP", "UDP"))}}
	}
	return c
}
