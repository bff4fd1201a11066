package resource

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/warning"

	"github.com/musterhq/muster/control/store"
)

// Rules that are not connected would go unnoticed: each kind refuses an object,
// a change and a status that only its own rules know to be wrong.
func TestWorkloadsAreHeldToTheirRules(t *testing.T) {
	holdToRules(t, []ruleTest{
		{
			Deployments,
			of(func(d *appsv1.Deployment) { d.Spec.Template.Labels["app"] = "other" }),
			of(func(d *appsv1.Deployment) {
				d.Spec.Selector.MatchLabels["tier"] = "web"
				d.Spec.Template.Labels["tier"] = "web"
			}),
			of(func(d *appsv1.Deployment) { d.Status.Replicas = -1 }),
			"spec.template.metadata.labels", "spec.selector", "status.replicas",
		},
		{
			ReplicaSets,
			of(func(rs *appsv1.ReplicaSet) { rs.Spec.Selector = nil }),
			of(func(rs *appsv1.ReplicaSet) {
				rs.Spec.Selector.MatchLabels["tier"] = "web"
				rs.Spec.Template.Labels["tier"] = "web"
			}),
			of(func(rs *appsv1.ReplicaSet) { rs.Status.ReadyReplicas = 2 }),
			"spec.selector", "spec.selector", "status.readyReplicas",
		},
		{
			StatefulSets,
			of(func(set *appsv1.StatefulSet) { set.Spec.PodManagementPolicy = "Sideways" }),
			of(func(set *appsv1.StatefulSet) { set.Spec.ServiceName = "other" }),
			of(func(set *appsv1.StatefulSet) { set.Status.CurrentReplicas = -1 }),
			"spec.podManagementPolicy", "spec.serviceName", "status.currentReplicas",
		},
		{
			DaemonSets,
			of(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever }),
			of(func(ds *appsv1.DaemonSet) {
				ds.Spec.Selector.MatchLabels["tier"] = "web"
				ds.Spec.Template.Labels["tier"] = "web"
			}),
			of(func(ds *appsv1.DaemonSet) { ds.Status.NumberReady = -1 }),
			"spec.template.spec.restartPolicy", "spec.selector", "status.numberReady",
		},
		{
			ControllerRevisions,
			of(func(c *appsv1.ControllerRevision) { c.Revision = -1 }),
			of(func(c *appsv1.ControllerRevision) { c.Data.Raw = []byte(`{"other":1}`) }), nil,
			"revision", "data", "",
		},
		{
			Jobs,
			of(func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways }),
			of(func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "other" }),
			of(func(j *batchv1.Job) { j.Status.Ready = new(int32(3)) }),
			"spec.template.spec.restartPolicy", "spec.template", "status.ready",
		},
		{
			CronJobs,
			of(func(c *batchv1.CronJob) { c.Spec.Schedule = "now and then" }),
			of(func(c *batchv1.CronJob) { c.Spec.TimeZone = new("Local") }), nil,
			"spec.schedule", "spec.timeZone", "",
		},
		{
			PodDisruptionBudgets,
			of(func(p *policyv1.PodDisruptionBudget) {
				p.Spec.MinAvailable, p.Spec.MaxUnavailable = new(intstr.FromInt32(1)), new(intstr.FromInt32(1))
			}),
			of(func(p *policyv1.PodDisruptionBudget) { p.Spec.MinAvailable = new(intstr.FromString("half")) }),
			of(func(p *policyv1.PodDisruptionBudget) { p.Status.DisruptionsAllowed = -1 }),
			"spec", "spec.minAvailable", "status.disruptionsAllowed",
		},
		{
			Leases,
			of(func(l *coordinationv1.Lease) { l.Spec.LeaseDurationSeconds = new(int32(0)) }),
			of(func(l *coordinationv1.Lease) { l.Spec.LeaseTransitions = new(int32(-1)) }), nil,
			"spec.leaseDurationSeconds", "spec.leaseTransitions", "",
		},
	})
}

// ruleTest makes the example of a kind wrong in three ways, and names the fields
// that are complained about. A kind without a status has no third.
type ruleTest struct {
	kind                         *Kind
	create, update, status       edit
	inCreate, inUpdate, inStatus string
}

func holdToRules(t *testing.T, tests []ruleTest) {
	for _, test := range tests {
		t.Run(test.kind.Singular, func(t *testing.T) {
			r, ns := newRegistry(t), namespaceOf(test.kind)
			wrong := examples()[test.kind]
			test.create(wrong)
			if _, err := r.Create(t.Context(), test.kind, ns, wrong, CreateOptions{}); !named422(err, test.inCreate) {
				t.Errorf("create: %v, want a complaint about %s", err, test.inCreate)
			}
			obj := must(t, r, test.kind, ns, examples()[test.kind])
			try := func(subresource string, edit edit, want string) {
				t.Helper()
				_, _, err := r.Update(t.Context(), test.kind, ns, obj.GetName(), subresource, func(current store.Object) (store.Object, error) {
					edit(current)
					return current, nil
				}, UpdateOptions{})
				if !named422(err, want) {
					t.Errorf("update of %q: %v, want a complaint about %s", subresource, err, want)
				}
			}
			try("", test.update, test.inUpdate)
			if test.status != nil {
				try("status", test.status, test.inStatus)
			}
		})
	}
}

// Users change what they want by the object's own path, controllers say what is
// by the path of the status. Either takes the other part as it was, and only a
// change of what is wanted counts as a generation.
func TestWorkloadsKeepStatusAndSpecApart(t *testing.T) {
	for _, test := range []struct {
		kind         *Kind
		spec, status edit
	}{
		{Deployments,
			of(func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(3)) }),
			of(func(d *appsv1.Deployment) { d.Status.Replicas = 1 })},
		{ReplicaSets,
			of(func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = new(int32(3)) }),
			of(func(rs *appsv1.ReplicaSet) { rs.Status.Replicas = 1 })},
		{StatefulSets,
			of(func(set *appsv1.StatefulSet) { set.Spec.Replicas = new(int32(3)) }),
			of(func(set *appsv1.StatefulSet) { set.Status.Replicas = 1 })},
		{DaemonSets,
			of(func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 3 }),
			of(func(ds *appsv1.DaemonSet) { ds.Status.DesiredNumberScheduled = 1 })},
		{Jobs,
			of(func(j *batchv1.Job) { j.Spec.Suspend = new(true) }),
			of(func(j *batchv1.Job) { j.Status.Active = 1 })},
		{CronJobs,
			of(func(c *batchv1.CronJob) { c.Spec.Suspend = new(true) }),
			of(func(c *batchv1.CronJob) { c.Status.LastScheduleTime = &metav1.Time{} })},
		{PodDisruptionBudgets,
			of(func(p *policyv1.PodDisruptionBudget) { p.Spec.MinAvailable = new(intstr.FromInt32(3)) }),
			of(func(p *policyv1.PodDisruptionBudget) { p.Status.CurrentHealthy = 1 })},
	} {
		t.Run(test.kind.Singular, func(t *testing.T) {
			keepsStatusAndSpecApart(t, test.kind, test.spec, test.status)
		})
	}
}

// keepsStatusAndSpecApart holds a kind that counts its generations to that.
func keepsStatusAndSpecApart(t *testing.T, kind *Kind, spec, status edit) {
	r, ns := newRegistry(t), namespaceOf(kind)
	both := func(obj store.Object) { spec(obj); status(obj) }
	fresh := examples()[kind]
	status(fresh)
	created := must(t, r, kind, ns, fresh)
	empty := must(t, newRegistry(t), kind, ns, examples()[kind])
	if got, want := part(created, "Status"), part(empty, "Status"); !apiequality.Semantic.DeepEqual(got, want) {
		t.Errorf("created with the status %+v, want %+v", got, want)
	}
	if created.GetGeneration() != 1 {
		t.Errorf("created with generation %d, want 1", created.GetGeneration())
	}
	reported := change(t, r, kind, ns, created.GetName(), "status", both)
	if !apiequality.Semantic.DeepEqual(part(reported, "Spec"), part(created, "Spec")) || apiequality.Semantic.DeepEqual(part(reported, "Status"), part(created, "Status")) {
		t.Errorf("status: %+v, want the spec as it was and another status", reported)
	}
	if reported.GetGeneration() != 1 {
		t.Errorf("generation %d after a report, want 1", reported.GetGeneration())
	}
	updated := change(t, r, kind, ns, created.GetName(), "", spec)
	if apiequality.Semantic.DeepEqual(part(updated, "Spec"), part(created, "Spec")) || !apiequality.Semantic.DeepEqual(part(updated, "Status"), part(reported, "Status")) {
		t.Errorf("update: %+v, want another spec and the status as it was", updated)
	}
	if updated.GetGeneration() != 2 {
		t.Errorf("generation %d after a change, want 2", updated.GetGeneration())
	}
	wiped := change(t, r, kind, ns, created.GetName(), "", func(obj store.Object) {
		reflect.ValueOf(obj).Elem().FieldByName("Status").SetZero()
	})
	if !apiequality.Semantic.DeepEqual(part(wiped, "Status"), part(reported, "Status")) {
		t.Errorf("an update changed the status to %+v", part(wiped, "Status"))
	}
}

// part is a field of an object.
func part(obj store.Object, name string) any {
	return reflect.ValueOf(obj).Elem().FieldByName(name).Interface()
}

// A deployment's annotations go to its replica sets, so they count; a daemon
// set counts templates apart from other changes, in an annotation.
func TestWhatCountsAsAGeneration(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Deployments, "default", examples()[Deployments])
	d := change(t, r, Deployments, "default", "x", "", func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} })
	if d.Generation != 2 {
		t.Errorf("deployment's generation %d after an annotation, want 2", d.Generation)
	}
	d = change(t, r, Deployments, "default", "x", "", func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} })
	if d.Generation != 2 {
		t.Errorf("deployment's generation %d after a label, want 2", d.Generation)
	}
	d = change(t, r, Deployments, "default", "x", "status", func(d *appsv1.Deployment) { d.Labels = nil; d.Status.Replicas = 1 })
	if d.Labels["a"] != "b" {
		t.Errorf("labels %v after a report, want them kept", d.Labels)
	}

	must(t, r, DaemonSets, "default", examples()[DaemonSets])
	for i, step := range []struct {
		do         func(*appsv1.DaemonSet)
		generation int64
		templates  string
	}{
		{func(ds *appsv1.DaemonSet) {}, 1, "1"},
		{func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 1 }, 2, "1"},
		{func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = "other" }, 3, "2"},
		{func(ds *appsv1.DaemonSet) { delete(ds.Annotations, appsv1.DeprecatedTemplateGeneration) }, 3, "2"},
	} {
		ds := change(t, r, DaemonSets, "default", "x", "", step.do)
		if got := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; ds.Generation != step.generation || got != step.templates {
			t.Errorf("step %d: generation %d, %s templates; want %d, %s", i, ds.Generation, got, step.generation, step.templates)
		}
	}
}

// What does not convert would be met by the rules, which are written for what has
// been converted, and is refused before.
func TestWhatDoesNotConvertIsABadRequest(t *testing.T) {
	r := newRegistry(t)
	bad := func(what string, err error, want string) {
		t.Helper()
		if !apierrors.IsBadRequest(err) || err.Error() != want {
			t.Errorf("%s: %v, want 400 %s", what, err, want)
		}
	}
	ds := examples()[DaemonSets].(*appsv1.DaemonSet)
	ds.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "x"}
	const want = `DaemonSet in version "v1" cannot be handled as a DaemonSet: strconv.ParseInt: parsing "x": invalid syntax`
	_, err := r.Create(t.Context(), DaemonSets, "default", ds.DeepCopy(), CreateOptions{})
	bad("a daemon set", err, want)
	must(t, r, DaemonSets, "default", examples()[DaemonSets])
	for _, path := range []string{"", "status"} {
		_, _, err = r.Update(t.Context(), DaemonSets, "default", "x", path, func(current store.Object) (store.Object, error) {
			current.SetAnnotations(ds.Annotations)
			return current, nil
		}, UpdateOptions{})
		bad("an update of "+path, err, want)
	}
	d := examples()[Deployments].(*appsv1.Deployment)
	d.Annotations = map[string]string{appsv1.DeprecatedRollbackTo: "x"}
	_, err = r.Create(t.Context(), Deployments, "default", d, CreateOptions{})
	bad("a deployment", err, `Deployment in version "v1" cannot be handled as a Deployment: failed to parse annotation[deprecated.deployment.rollback.to]=x as int64: strconv.ParseInt: parsing "x": invalid syntax`)
}

func TestAJobFindsItsPodsByItsUID(t *testing.T) {
	r := newRegistry(t)
	job := must(t, r, Jobs, "default", examples()[Jobs].(*batchv1.Job))
	want := map[string]string{
		"job-name": "x", "batch.kubernetes.io/job-name": "x",
		"controller-uid": string(job.UID), "batch.kubernetes.io/controller-uid": string(job.UID),
	}
	if !apiequality.Semantic.DeepEqual(job.Spec.Template.Labels, want) || !apiequality.Semantic.DeepEqual(job.Labels, want) {
		t.Errorf("labels %v, template's %v; want %v", job.Labels, job.Spec.Template.Labels, want)
	}
	if got := job.Spec.Selector.MatchLabels; len(got) != 1 || got["batch.kubernetes.io/controller-uid"] != string(job.UID) {
		t.Errorf("selector %v, want the uid", got)
	}

	mine := examples()[Jobs].(*batchv1.Job)
	mine.Name, mine.Spec.ManualSelector = "mine", new(true)
	mine.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	mine.Spec.Template.Labels = map[string]string{"app": "x"}
	if mine = must(t, r, Jobs, "default", mine); len(mine.Spec.Template.Labels) != 1 {
		t.Errorf("labels %v of a job with a selector of its own, want them as given", mine.Spec.Template.Labels)
	}
}

// A job that does not run yet may be told other nodes to run on; one that runs
// may not.
func TestTheTemplateOfASuspendedJobMayChange(t *testing.T) {
	r := newRegistry(t)
	elsewhere := func(current store.Object) (store.Object, error) {
		current.(*batchv1.Job).Spec.Template.Spec.NodeSelector = map[string]string{"zone": "b"}
		return current, nil
	}
	for name, suspend := range map[string]bool{"runs": false, "waits": true} {
		job := examples()[Jobs].(*batchv1.Job)
		job.Name, job.Spec.Suspend = name, new(suspend)
		must(t, r, Jobs, "default", job)
		_, _, err := r.Update(t.Context(), Jobs, "default", name, "", elsewhere, UpdateOptions{})
		if (err == nil) != suspend {
			t.Errorf("a job that %s: %v, want a change taken: %t", name, err, suspend)
		}
	}
}

func TestUpdatesOfWhatClientsCompeteForNameTheirVersion(t *testing.T) {
	r := newRegistry(t)
	for _, kind := range []*Kind{Leases, PodDisruptionBudgets} {
		obj := must(t, r, kind, "default", examples()[kind])
		obj.SetResourceVersion("")
		if _, _, err := r.Update(t.Context(), kind, "default", "x", "", replace(obj), UpdateOptions{}); !named422(err, "metadata.resourceVersion") {
			t.Errorf("%s without a version: %v, want a complaint about it", kind.Singular, err)
		}
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "new", Namespace: "default"}}
	if _, created, err := r.Update(t.Context(), Leases, "default", "new", "", replace(lease), UpdateOptions{}); err != nil || !created {
		t.Errorf("update of no lease: created %t, %v; want it created", created, err)
	}
}

func TestScaleOfWorkloads(t *testing.T) {
	r := newRegistry(t)
	for _, kind := range []*Kind{Deployments, ReplicaSets, StatefulSets} {
		must(t, r, kind, "default", examples()[kind])
		scale, err := r.UpdateScale(t.Context(), kind, "default", "x", func(s *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			s.Spec.Replicas = 5
			return s, nil
		}, UpdateOptions{})
		if err != nil || scale.Spec.Replicas != 5 || scale.Status.Selector != "app=x" {
			t.Errorf("%s: scale %+v, %v; want 5 of app=x", kind.Singular, scale, err)
		}
		if got := stored[store.Object](t, r, kind, "default", "x"); got.GetGeneration() != 2 {
			t.Errorf("%s: generation %d, want 2", kind.Singular, got.GetGeneration())
		}
		_, err = r.UpdateScale(t.Context(), kind, "default", "x", func(s *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			s.Spec.Replicas = -1
			return s, nil
		}, UpdateOptions{})
		if !apierrors.IsInvalid(err) {
			t.Errorf("%s: scale to -1: %v, want it refused", kind.Singular, err)
		}
	}
}

func TestWorkloadsWarnOfWhatIsAllowedAndUnwise(t *testing.T) {
	for _, test := range []struct {
		kind *Kind
		edit edit
		want string
	}{
		{Deployments, of(func(d *appsv1.Deployment) { d.Name = "x.y" }), "metadata.name: this is used in Pod names and hostnames"},
		{ReplicaSets, of(func(rs *appsv1.ReplicaSet) {
			rs.Spec.Template.Spec.NodeSelector = map[string]string{"beta.kubernetes.io/os": "linux"}
		}), "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated"},
		{StatefulSets, of(func(set *appsv1.StatefulSet) { set.Spec.RevisionHistoryLimit = new(int32(-1)) }), "spec.revisionHistoryLimit: a negative value"},
		{Jobs, of(func(j *batchv1.Job) { j.Name = "x.y" }), "metadata.name: this is used in Pod names and hostnames"},
	} {
		t.Run(test.kind.Singular, func(t *testing.T) {
			heard := &warnings{}
			obj := examples()[test.kind]
			test.edit(obj)
			if _, err := newRegistry(t).Create(warning.WithWarningRecorder(t.Context(), heard), test.kind, "default", obj, CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(heard.texts, func(text string) bool { return strings.HasPrefix(text, test.want) }) {
				t.Errorf("warnings %q, want %q", heard.texts, test.want)
			}
		})
	}
	r, heard := newRegistry(t), &warnings{}
	must(t, r, Jobs, "default", examples()[Jobs])
	if _, _, err := r.Delete(warning.WithWarningRecorder(t.Context(), heard), Jobs, "default", "x", &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(heard.texts) != 1 || !strings.HasPrefix(heard.texts[0], "child pods are preserved by default") {
		t.Errorf("warnings %q, want that pods are preserved", heard.texts)
	}
}

// edit changes an object of a kind, so that tables can hold it.
type edit func(store.Object)

func of[T store.Object](f func(T)) edit { return func(obj store.Object) { f(obj.(T)) } }

// named422 says whether a field is among the causes of a refusal.
func named422(err error, field string) bool {
	return slices.ContainsFunc(causes(err), func(c string) bool { return strings.HasPrefix(c, field+": ") })
}
