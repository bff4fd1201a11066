package job

import (
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes are some of a job's completion indexes: those that are true.
type indexes []bool

// parseIndexes reads what status says, "0,3-5,7". What does not parse, or is beyond
// the job's completions, is left out.
func parseIndexes(text string, completions int) indexes {
	found := make(indexes, completions)
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 0 {
			continue
		}
		for i := first; i <= last && i < completions; i++ {
			found[i] = true
		}
	}
	return found
}

// String is the shortest form, in upstream's fashion: two in a row are no range.
func (x indexes) String() string {
	var parts []string
	for i := 0; i < len(x); i++ {
		if !x[i] {
			continue
		}
		first := i
		for i+1 < len(x) && x[i+1] {
			i++
		}
		switch {
		case i == first:
			parts = append(parts, strconv.Itoa(i))
		case i == first+1:
			parts = append(parts, strconv.Itoa(first), strconv.Itoa(i))
		default:
			parts = append(parts, strconv.Itoa(first)+"-"+strconv.Itoa(i))
		}
	}
	return strings.Join(parts, ",")
}

func (x indexes) total() int {
	n := 0
	for _, is := range x {
		if is {
			n++
		}
	}
	return n
}

func (x indexes) has(i int) bool { return i >= 0 && i < len(x) && x[i] }

// both are how many are in x and in y.
func (x indexes) both(y indexes) int {
	n := 0
	for i := range x {
		if x[i] && y.has(i) {
			n++
		}
	}
	return n
}

// indexOf is the completion index of a pod, -1 for none.
func indexOf(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return -1
	}
	return i
}

// failuresOf says how often a pod's index had failed before it, without and with the
// failures that a policy ignores.
func failuresOf(pod *corev1.Pod) (counted, all int) {
	number := func(name string) int {
		n, err := strconv.ParseInt(pod.Annotations[name], 10, 32)
		if err != nil || n < 0 {
			return 0
		}
		return int(n)
	}
	counted = number(batchv1.JobIndexFailureCountAnnotation)
	return counted, counted + number(batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func isIndexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion
}

const indexVariable = "JOB_COMPLETION_INDEX"

// addIndexVariable tells containers the index of their pod, unless they say
// something else.
func addIndexVariable(containers []corev1.Container) {
	for i := range containers {
		c := &containers[i]
		if !slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == indexVariable }) {
			c.Env = append(c.Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"}}})
		}
	}
}
