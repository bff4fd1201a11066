package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
)

// Outlook is which pods a job that has those pods would have at once. like is a pod of
// its template.
func Outlook(job *batchv1.Job, pods []*corev1.Pod, like *corev1.Pod, now time.Time) controller.Outlook {
	v := look(job, pods, now)
	switch {
	case hasEnded(job), v.verdict != nil:
		return controller.Outlook{Leave: v.active, Notes: []string{"it has ended"}}
	case suspended(job):
		return controller.Outlook{Leave: v.active, Notes: []string{"it is suspended"}}
	}
	want := int(v.wanted())
	leave := v.surplus(max(0, len(v.active)-want))
	stay := slices.DeleteFunc(slices.Clone(v.active), func(pod *corev1.Pod) bool { return slices.Contains(leave, pod) })
	o := controller.Outlook{Leave: leave, Stay: stay}
	o.Come = controller.Others(like, job.Name, want-len(o.Stay))
	if all := job.Spec.Completions; all != nil && int(*all-v.succeeded) > want {
		o.Notes = []string{fmt.Sprintf("%d at a time; %d are to succeed", want, *all-v.succeeded)}
	}
	return o
}

func hasEnded(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}
