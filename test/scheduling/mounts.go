package scheduling

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/musterhq/muster/control/scheduler"
)

// mounts gives a pod volumes, in a cluster that has them, and has some ask for little else.
func (m *maker) mounts(p *corev1.Pod) {
	add := func(name string, source corev1.VolumeSource) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
	for i := range claimsMost {
		if m.sometimes() {
			name := fmt.Sprint(p.Namespace, "-c", i)
			if m.IntN(20) == 0 {
				name = "none"
			}
			add(fmt.Sprint("claim", i), corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}})
		}
	}
	if m.sometimes() {
		add("scratch", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{}}})
	}
	switch m.IntN(12) {
	case 0:
		add("disk", corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: m.one("d", "e"), ReadOnly: m.often()}})
	case 1:
		add("disk", corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: m.one("vol-d", "vol-e")}})
	case 2:
		add("disk", corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{TargetPortal: "10.0.0.9", IQN: m.one("iqn.2026-01.example:d", "iqn.2026-01.example:e"), ReadOnly: m.often()}})
	case 3:
		add("disk", corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{
			CephMonitors: []string{m.one("m0", "m1"), "m2"}[m.IntN(2):], RBDPool: m.one("rbd", "slow"), RBDImage: "i", ReadOnly: m.often()}})
	}
	if m.often() { // nothing else is to keep it from a node
		p.Spec.Affinity, p.Spec.NodeSelector = nil, nil
		for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
			for i := range containers {
				containers[i].Resources, containers[i].Ports, containers[i].RestartPolicyRules = corev1.ResourceRequirements{}, nil, nil
			}
		}
		p.Spec.TopologySpreadConstraints, p.Spec.Resources, p.Spec.Overhead, p.Spec.Tolerations = nil, nil, nil, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	m.Shuffle(len(p.Spec.Volumes), func(i, j int) { p.Spec.Volumes[i], p.Spec.Volumes[j] = p.Spec.Volumes[j], p.Spec.Volumes[i] })
}

// settle takes from a pod what it could not have where it is, or is to be: a claim that
// another pod has alone, and one of an ephemeral volume of somebody else.
func (m *maker) settle(p *corev1.Pod, s *scheduler.State) {
	p.Spec.Volumes = slices.DeleteFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		for _, c := range s.Claims {
			switch {
			case c.Namespace != p.Namespace:
			case v.Ephemeral != nil && c.Name == ephemeral.VolumeClaimName(p, &v):
				return ephemeral.VolumeIsForPod(p, c) != nil
			case v.PersistentVolumeClaim != nil && c.Name == v.PersistentVolumeClaim.ClaimName && slices.Contains(c.Spec.AccessModes, corev1.ReadWriteOncePod):
				had := m.once[c.Name]
				m.once[c.Name] = true
				return had || p.Spec.NodeName == ""
			}
		}
		return false
	})
}
