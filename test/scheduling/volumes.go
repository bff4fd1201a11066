package scheduling

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/scheduler"
)

const claimsMost = 5 // of a namespace

// store makes the storage of a cluster: classes, drivers on nodes, volumes that are
// anybody's, and in every namespace claims in all states that they get into. Pods have
// claims from then on.
func (m *maker) store(s *scheduler.State) {
	m.stored, m.waiting = true, m.often()
	m.once = map[string]bool{}
	for _, it := range []struct{ name, provisioner string }{
		{"now", "example.org/disks"}, {"made", "example.org/disks"}, {"filed", "example.org/files"}, {"local", volume.NotSupportedProvisioner},
	} {
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: it.name}, Provisioner: it.provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
		if it.name == "now" {
			class.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
		}
		s.StorageClasses = append(s.StorageClasses, class)
	}
	for _, class := range s.StorageClasses {
		for m.sometimes() {
			class.AllowedTopologies = append(class.AllowedTopologies, m.topology())
		}
	}
	if m.sometimes() {
		s.StorageClasses = s.StorageClasses[1:]
	}
	for _, n := range s.Nodes {
		if !m.sometimes() {
			s.CSINodes = append(s.CSINodes, m.csiNode(n.Name))
		}
	}
	m.drivers(s)
	for range m.IntN(16) {
		v := m.volume(s)
		switch m.IntN(8) {
		case 0:
			v.Status.Phase = corev1.VolumeReleased
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns0", Name: "ns0-c0", UID: "of-before"}
		case 1:
			v.DeletionTimestamp = ptr.To(metav1.Now())
			v.Finalizers = []string{"kubernetes.io/pv-protection"}
		case 2:
			v.Status.Phase = corev1.VolumePending
		}
	}
	m.attach(s)
	for _, ns := range s.Namespaces {
		for i := range claimsMost {
			m.claim(s, ns.Name, fmt.Sprint(ns.Name, "-c", i))
		}
		// Of ephemeral volumes, whose pods are not there yet.
		for i := range 60 {
			if m.often() {
				continue
			}
			c := m.claim(s, ns.Name, fmt.Sprint("p", i, "-scratch"))
			c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("uid", i)), Controller: ptr.To(true)}}
			if m.sometimes() {
				c.OwnerReferences = nil
			}
		}
	}
}

func (m *maker) topology() (t corev1.TopologySelectorTerm) {
	zones := corev1.TopologySelectorLabelRequirement{Key: corev1.LabelTopologyZone, Values: []string{m.one("a", "b"), "c"}}
	disks := corev1.TopologySelectorLabelRequirement{Key: "disk", Values: []string{m.one("ssd", "hdd")}}
	t.MatchLabelExpressions = [][]corev1.TopologySelectorLabelRequirement{{zones}, {disks}, {zones, disks}, {}}[m.IntN(4)]
	return t
}

func (m *maker) modes() []corev1.PersistentVolumeAccessMode {
	return [][]corev1.PersistentVolumeAccessMode{
		{corev1.ReadWriteOnce}, {corev1.ReadWriteOnce}, {corev1.ReadWriteOncePod}, {corev1.ReadOnlyMany}, {corev1.ReadWriteOnce, corev1.ReadOnlyMany},
	}[m.IntN(5)]
}

// volume adds one. No two are of the same size: of these upstream takes any.
func (m *maker) volume(s *scheduler.State) *corev1.PersistentVolume {
	i := len(s.Volumes)
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("v", i), Labels: map[string]string{"tier": m.one("gold", "tin")}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: m.one("local", "local", "local", "local", "made", "made", "filed", "now", ""),
			Capacity:         corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(fmt.Sprint((1+m.IntN(4))*1024+i, "Mi"))},
			AccessModes:      append(m.modes(), corev1.ReadWriteMany, corev1.PersistentVolumeAccessMode(m.one("ReadWriteOnce", "ReadWriteOncePod"))),
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	if m.IntN(10) == 0 {
		v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	}
	if m.IntN(10) == 0 {
		v.Spec.VolumeAttributesClassName = ptr.To("fast")
	}
	switch m.IntN(4) {
	case 0:
		v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/data"}
	case 1:
		v.Spec.NFS = &corev1.NFSVolumeSource{Server: "files.example", Path: "/"}
	default: // some are the same volume of a driver
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: m.one("example.org/disks", "example.org/files"), VolumeHandle: fmt.Sprint("h", m.IntN(3*(i+1)))}
	}
	for m.sometimes() {
		v.Labels[m.one(corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyRegion)] = m.one("a", "b", "a__c", "b__a", "", "a____b")
	}
	in := func(key string, values ...string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}
	}
	var terms []corev1.NodeSelectorTerm
	switch m.IntN(8) {
	case 0:
		terms = append(terms, in(corev1.LabelHostname, m.one("n0", "n1", "n2", "n3"), m.one("n4", "n5", "n6")))
	case 1:
		terms = append(terms, in(corev1.LabelTopologyZone, m.one("a", "b")))
	case 2:
		terms = append(terms, in(corev1.LabelTopologyZone, m.one("a", "b")), in("disk", "ssd"))
	case 3:
		terms = append(terms, m.nodeTerm()) // by its name, too, which says nothing of volumes
	}
	if terms != nil {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
	}
	s.Volumes = append(s.Volumes, v)
	return v
}

// claim adds one in any state.
func (m *maker) claim(s *scheduler.State, namespace, name string) *corev1.PersistentVolumeClaim {
	class := m.one("local", "local", "made", "filed")
	if !m.waiting {
		class = m.one("local", "made", "made", "filed", "now", "now", "", "none")
	}
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To(class), AccessModes: m.modes(),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(fmt.Sprint(1+m.IntN(3), "Gi"))}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	if m.IntN(10) == 0 {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
	}
	if m.IntN(20) == 0 {
		c.Spec.VolumeAttributesClassName = ptr.To("fast")
	}
	bind := func() {
		c.Status.Phase = corev1.ClaimBound
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnBindCompleted, "yes")
	}
	meant := func() *corev1.PersistentVolume {
		v := m.volume(s)
		v.Spec.StorageClassName = *c.Spec.StorageClassName
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: name, UID: c.UID}
		return v
	}
	state := m.IntN(20)
	if m.waiting && m.often() {
		state = 5
	}
	switch state {
	case 0: // its volume is gone
		c.Spec.VolumeName = "gone"
		if bind(); m.often() {
			c.Status.Phase = corev1.ClaimLost
		}
	case 1: // asks for a volume
		c.Spec.VolumeName = m.one("v0", "gone")
	case 2: // a volume is meant for it
		v := meant()
		if m.often() {
			v.Spec.ClaimRef.UID = ""
		}
		if m.sometimes() {
			v.Spec.StorageClassName = m.one("local", "made")
		}
	case 3: // its volume is being made
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnSelectedNode, m.one("n0", "n1"))
	case 4:
		c.DeletionTimestamp = ptr.To(metav1.Now())
		c.Finalizers = []string{"kubernetes.io/pvc-protection"}
	case 5, 6, 7, 8, 9, 10, 11: // is not bound
	default:
		v := meant()
		v.Status.Phase = corev1.VolumeBound
		c.Spec.VolumeName = v.Name
		bind()
	}
	s.Claims = append(s.Claims, c)
	return c
}
