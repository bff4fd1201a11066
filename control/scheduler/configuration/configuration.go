// Package configuration reads how pods of each spec.schedulerName are to be decided
// about, from a file in kube-scheduler's format: KubeSchedulerConfiguration of
// kubescheduler.config.k8s.io/v1. What Muster's scheduler can't do is refused with
// the field's name, never passed over. Carrying it out is the scheduler's business.
package configuration

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Kind and APIVersion are those of the file.
const (
	Kind       = "KubeSchedulerConfiguration"
	APIVersion = "kubescheduler.config.k8s.io/v1"
)

// Bounds of a file. Every profile is a list of filters and scores in the leader's
// memory, and the file is one record of the store.
const (
	bytesMost    = 256 << 10
	profilesMost = 64
)

// Read reads a file, YAML or JSON. The profiles are in order of their names, and
// default-scheduler is always one of them: who writes nothing about it has it as it
// is without any file. An error names every field that is wrong.
func Read(file []byte) ([]Profile, error) {
	if len(file) > bytesMost {
		return nil, fmt.Errorf("%d bytes, at most %d", len(file), bytesMost)
	}
	var head metav1.TypeMeta
	if err := yaml.Unmarshal(file, &head); err != nil {
		return nil, err
	}
	if head.Kind != Kind || head.APIVersion != APIVersion {
		return nil, fmt.Errorf("apiVersion %q, kind %q: want %s, %s", head.APIVersion, head.Kind, APIVersion, Kind)
	}
	var c schedulerv1.KubeSchedulerConfiguration
	if err := decode(file, &c); err != nil {
		return nil, err
	}
	errs := foreign(&c)
	global := field.NewPath("percentageOfNodesToScore")
	errs = append(errs, checkPercentage(global, c.PercentageOfNodesToScore)...)
	path := field.NewPath("profiles")
	if len(c.Profiles) == 0 {
		errs = append(errs, field.Required(path, "name a profile; muster operator scheduler profiles reset goes back to the standard one"))
	}
	if len(c.Profiles) > profilesMost {
		errs = append(errs, field.TooMany(path, len(c.Profiles), profilesMost))
	}
	if len(c.Profiles) == 1 && c.Profiles[0].SchedulerName == nil {
		name := corev1.DefaultSchedulerName
		c.Profiles[0].SchedulerName = &name
	}
	var profiles []Profile
	for i := range c.Profiles {
		from, at := &c.Profiles[i], path.Index(i)
		if from.SchedulerName == nil || *from.SchedulerName == "" {
			errs = append(errs, field.Required(at.Child("schedulerName"), "pods name it in spec.schedulerName"))
			continue
		}
		for _, msg := range utilvalidation.IsDNS1123Subdomain(*from.SchedulerName) {
			errs = append(errs, field.Invalid(at.Child("schedulerName"), *from.SchedulerName, msg))
		}
		if slices.ContainsFunc(profiles, func(p Profile) bool { return p.SchedulerName == *from.SchedulerName }) {
			errs = append(errs, field.Duplicate(at.Child("schedulerName"), *from.SchedulerName))
			continue
		}
		if from.PercentageOfNodesToScore == nil {
			from.PercentageOfNodesToScore = c.PercentageOfNodesToScore
		} else {
			errs = append(errs, checkPercentage(at.Child("percentageOfNodesToScore"), from.PercentageOfNodesToScore)...)
		}
		profile, wrong := read(at, from)
		errs = append(errs, wrong...)
		profiles = append(profiles, profile)
	}
	if len(errs) > 0 {
		return nil, errors.Join(toErrors(errs)...)
	}
	return withDefault(profiles), nil
}

// withDefault adds the profile of pods that name no scheduler, unless it is there.
func withDefault(profiles []Profile) []Profile {
	if !slices.ContainsFunc(profiles, func(p Profile) bool { return p.SchedulerName == corev1.DefaultSchedulerName }) {
		profiles = append(profiles, Standard(corev1.DefaultSchedulerName))
	}
	slices.SortFunc(profiles, func(a, b Profile) int { return cmp.Compare(a.SchedulerName, b.SchedulerName) })
	return profiles
}

// decode is strict: unknown and repeated fields are errors, with where they are.
func decode(text []byte, into any) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	strict, err := json.UnmarshalStrict(raw, into)
	return errors.Join(append(strict, err)...)
}

// foreign refuses what belongs to kube-scheduler's own process.
func foreign(c *schedulerv1.KubeSchedulerConfiguration) (errs field.ErrorList) {
	for _, it := range []struct {
		name  string
		value any
		why   string
	}{
		{"parallelism", c.Parallelism, "remove it: one goroutine decides, from indexes"},
		{"leaderElection", c.LeaderElection, "remove it: the scheduler runs on the control node that leads"},
		{"clientConnection", c.ClientConnection, "remove it: the scheduler reads and writes its control node's own store"},
		{"enableProfiling", c.EnableProfiling, "remove it: it is no setting of a cluster"},
		{"enableContentionProfiling", c.EnableContentionProfiling, "remove it: it is no setting of a cluster"},
		{"podInitialBackoffSeconds", c.PodInitialBackoffSeconds, "remove it: a pod that fits nowhere does not back off, it is woken by what helps it"},
		{"podMaxBackoffSeconds", c.PodMaxBackoffSeconds, "remove it: a pod that fits nowhere does not back off, it is woken by what helps it"},
		{"extenders", c.Extenders, "remove them: the scheduler calls no webhooks"},
		{"delayCacheUntilActive", c.DelayCacheUntilActive, "remove it: a control node follows its own replica"},
	} {
		if v := reflect.ValueOf(it.value); !v.IsZero() {
			errs = append(errs, field.Forbidden(field.NewPath(it.name), it.why))
		}
	}
	return errs
}

func checkPercentage(path *field.Path, of *int32) field.ErrorList {
	if of != nil && (*of < 0 || *of > 100) {
		return field.ErrorList{field.Invalid(path, *of, "want 0 to 100")}
	}
	return nil
}

func toErrors(list field.ErrorList) []error {
	errs := make([]error, len(list))
	for i, err := range list {
		errs[i] = err
	}
	return errs
}
