package job

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes are some of a job's completion indexes, as ranges in order that do not touch:
// a job may have more completions than there is memory for, all but a few of them open.
type indexes []indexRange

type indexRange struct{ first, last int }

// parseIndexes reads what status says, "0,3-5,7". What does not parse, or is beyond
// the job's completions, is left out.
func parseIndexes(text string, completions int) indexes {
	var found indexes
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if last = min(last, completions-1); err == nil && first >= 0 && first <= last {
			found = append(found, indexRange{first, last})
		}
	}
	return found.joined()
}

// joined brings ranges into order and makes one of those that overlap or touch.
func (x indexes) joined() indexes {
	slices.SortFunc(x, func(a, b indexRange) int { return cmp.Compare(a.first, b.first) })
	joined := x[:0]
	for _, r := range x {
		if n := len(joined); n > 0 && r.first <= joined[n-1].last+1 {
			joined[n-1].last = max(joined[n-1].last, r.last)
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}

// with are x and those of more.
func (x indexes) with(more []int) indexes {
	all := slices.Clone(x)
	for _, i := range more {
		all = append(all, indexRange{i, i})
	}
	return all.joined()
}

// String is the shortest form, in upstream's fashion: two in a row are no range.
func (x indexes) String() string {
	var parts []string
	for _, r := range x {
		switch r.last {
		case r.first:
			parts = append(parts, strconv.Itoa(r.first))
		case r.first + 1:
			parts = append(parts, strconv.Itoa(r.first), strconv.Itoa(r.last))
		default:
			parts = append(parts, strconv.Itoa(r.first)+"-"+strconv.Itoa(r.last))
		}
	}
	return strings.Join(parts, ",")
}

func (x indexes) total() int {
	n := 0
	for _, r := range x {
		n += r.last - r.first + 1
	}
	return n
}

// after is the first index from i on that is not in x.
func (x indexes) after(i int) int {
	at, _ := slices.BinarySearchFunc(x, i, func(r indexRange, i int) int { return cmp.Compare(r.last, i) })
	if at < len(x) && x[at].first <= i {
		return x[at].last + 1
	}
	return i
}

func (x indexes) has(i int) bool { return x.after(i) != i }

// both are how many are in x and in y.
func (x indexes) both(y indexes) int {
	n := 0
	for len(x) > 0 && len(y) > 0 {
		n += max(0, min(x[0].last, y[0].last)-max(x[0].first, y[0].first)+1)
		if x[0].last < y[0].last {
			x = x[1:]
		} else {
			y = y[1:]
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
