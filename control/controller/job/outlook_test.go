package job

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// An outlook has as many pods as the controller would make at once.
func TestOutlookIsWhatRunsAtOnce(t *testing.T) {
	for _, test := range []struct {
		name                     string
		completions, parallelism int32
		change                   func(*batchv1.Job)
		come                     int
		note                     string
	}{
		{"all at once", 3, 5, nil, 3, ""},
		{"some at a time", 10, 2, nil, 2, "2 at a time; 10 are to succeed"},
		{"most are done", 10, 4, func(j *batchv1.Job) { j.Status.Succeeded = 7 }, 3, ""},
		{"suspended", 3, 3, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }, 0, "suspended"},
		{"ended", 3, 3, func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
		}, 0, "ended"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := makeWorld(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = &test.completions, &test.parallelism })
			if test.change != nil {
				test.change(w.job)
			}
			o := Outlook(w.job, nil, &corev1.Pod{}, start)
			if notes := strings.Join(o.Notes, "|"); len(o.Come) != test.come || !strings.Contains(notes, test.note) || (test.note == "") != (notes == "") {
				t.Errorf("%d come, notes %q; want %d, %q", len(o.Come), notes, test.come, test.note)
			}
		})
	}
}
