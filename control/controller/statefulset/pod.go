package statefulset

import (
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// nameOf takes a pod's name apart into its set's and its ordinal, -1 for none.
func nameOf(pod *corev1.Pod) (set string, ordinal int) {
	at := strings.LastIndexByte(pod.Name, '-')
	if at < 0 {
		return "", -1
	}
	n, err := strconv.ParseUint(pod.Name[at+1:], 10, 31)
	if err != nil {
		return "", -1
	}
	return pod.Name[:at], int(n)
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

func claimName(template *corev1.PersistentVolumeClaim, pod *corev1.Pod) string {
	return template.Name + "-" + pod.Name
}

// podOf makes the pod of an ordinal.
func podOf(set *appsv1.StatefulSet, r revision, ordinal int) *corev1.Pod {
	meta := r.template.ObjectMeta.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: podName(set, ordinal), GenerateName: set.Name + "-",
			Labels: meta.Labels, Annotations: meta.Annotations, Finalizers: meta.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, store.StatefulSets.Kind)},
		},
		Spec: *r.template.Spec.DeepCopy(),
	}
	setIdentity(pod)
	metav1.SetMetaDataLabel(&pod.ObjectMeta, appsv1.StatefulSetRevisionLabel, r.name)
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	setVolumes(set, pod)
	return pod
}

func setIdentity(pod *corev1.Pod) {
	_, ordinal := nameOf(pod)
	metav1.SetMetaDataLabel(&pod.ObjectMeta, appsv1.StatefulSetPodNameLabel, pod.Name)
	metav1.SetMetaDataLabel(&pod.ObjectMeta, appsv1.PodIndexLabel, strconv.Itoa(ordinal))
}

func isAsNamed(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	name, _ := nameOf(pod)
	return name == set.Name && pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name
}

// setVolumes mounts a pod's own claims, in place of volumes that are called the same.
func setVolumes(set *appsv1.StatefulSet, pod *corev1.Pod) {
	var volumes []corev1.Volume
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(t, pod)}}})
	}
	own := len(volumes)
	for _, v := range pod.Spec.Volumes {
		if !slices.ContainsFunc(volumes[:own], func(c corev1.Volume) bool { return c.Name == v.Name }) {
			volumes = append(volumes, v)
		}
	}
	pod.Spec.Volumes = volumes
}
