package deployment

import (
	"maps"
	"math"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/store"
)

// Annotations by which clients tell revisions, and controllers sizes.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	mostAnnotation     = "deployment.kubernetes.io/max-replicas"

	// historyCharsMost bounds the list of revisions that one replica set has been.
	historyCharsMost = 2000
	noLimit          = math.MaxInt32
)

// notCopied are annotations that a deployment and its replica sets do not share.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	historyAnnotation:                  true,
	desiredAnnotation:                  true,
	mostAnnotation:                     true,
	appsv1.DeprecatedRollbackTo:        true,
}

// ensureFresh plans a replica set for the present template if there is none. Its
// name follows from the template, so that it is made once however often that is tried.
func (r *rollout) ensureFresh() {
	if r.fresh != nil {
		return
	}
	hash := controller.TemplateHash(&r.d.Spec.Template, r.d.Status.CollisionCount)
	template := *r.d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := r.d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	size := r.freshSize()
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            setName(r.d.Name, hash),
			Namespace:       r.d.Namespace,
			Labels:          maps.Clone(template.Labels),
			Annotations:     map[string]string{desiredAnnotation: itoa(r.want()), mostAnnotation: itoa(r.want() + r.surge())},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, store.Deployments.Kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        &size,
			MinReadySeconds: r.d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        template,
		},
	}
	annotate(set, r.d, r.nextRevision())
	r.fresh = set
	r.steps = append(r.steps, step{set: set, create: true})
}

// annotate brings what the new replica set shares with the deployment up to date.
// One of an earlier revision, rolled back to, becomes the newest.
func (r *rollout) annotate() {
	if r.fresh == nil {
		return
	}
	after := r.fresh.DeepCopy()
	annotate(after, r.d, r.nextRevision())
	if maps.Equal(after.Annotations, r.fresh.Annotations) && r.fresh.Spec.MinReadySeconds == r.d.Spec.MinReadySeconds {
		return
	}
	r.change(r.fresh, func(set *appsv1.ReplicaSet) {
		set.Annotations = after.Annotations
		set.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
	})
}

// annotate copies the deployment's annotations to set, and numbers it, unless it
// has a higher number. A revision that is not a number is left alone.
func annotate(set *appsv1.ReplicaSet, d *appsv1.Deployment, next int64) {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	for name, value := range d.Annotations {
		if !notCopied[name] {
			set.Annotations[name] = value
		}
	}
	before, had := set.Annotations[revisionAnnotation]
	number, err := strconv.ParseInt(before, 10, 64)
	if err != nil && before != "" || number >= next {
		return
	}
	set.Annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if !had {
		return
	}
	var past []string
	if history := set.Annotations[historyAnnotation]; history != "" {
		past = strings.Split(history, ",")
	}
	past = append(past, before)
	for len(past) > 1 && len(strings.Join(past, ",")) > historyCharsMost {
		past = past[1:]
	}
	set.Annotations[historyAnnotation] = strings.Join(past, ",")
}

func (r *rollout) nextRevision() int64 {
	most := int64(0)
	for _, set := range r.old {
		most = max(most, revisionOf(set))
	}
	return most + 1
}

// revisionOf is 0 for a replica set without a number.
func revisionOf(set *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(set.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func annotatedNumber(set *appsv1.ReplicaSet, name string) (int32, bool) {
	n, err := strconv.ParseUint(set.Annotations[name], 10, 31)
	return int32(n), err == nil
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }

func setName(deployment, hash string) string {
	return deployment[:min(len(deployment), validation.DNS1123SubdomainMaxLength-len(hash)-1)] + "-" + hash
}

func withLabel(set map[string]string, hash string) map[string]string {
	set = maps.Clone(set)
	if set == nil {
		set = map[string]string{}
	}
	set[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return set
}

// equalTemplates compares all but the label that the hash adds: it differs between
// releases that know more fields.
func equalTemplates(a, b *corev1.PodTemplateSpec) bool {
	return apiequality.Semantic.DeepEqual(withoutHash(a.ObjectMeta), withoutHash(b.ObjectMeta)) &&
		apiequality.Semantic.DeepEqual(a.Spec, b.Spec)
}

func withoutHash(m metav1.ObjectMeta) metav1.ObjectMeta {
	if _, ok := m.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; ok {
		m.Labels = maps.Clone(m.Labels)
		delete(m.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	}
	return m
}
