package strategies

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	apitesting "k8s.io/kubernetes/pkg/api/testing"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// rounds are how many objects and changes of each kind are tried by go test.
const rounds = 300

func TestWritesComeOutAsUpstreams(t *testing.T) {
	seen := map[schema.GroupResource]bool{}
	for _, kind := range resource.Builtin() {
		if seen[kind.Spec.Resource] {
			continue // another version of the same
		}
		seen[kind.Spec.Resource] = true
		theirs, ok := strategies[kind.Spec.Resource.String()]
		if !ok {
			t.Logf("%s: no strategy of upstream's here", kind.Spec.Resource)
			continue
		}
		t.Run(kind.Spec.Resource.String(), func(t *testing.T) {
			t.Parallel()
			accepted, refused := 0, 0
			for seed := range int64(rounds) {
				a, r := compare(t, kind, theirs, seed)
				if accepted, refused = accepted+a, refused+r; t.Failed() {
					t.Fatalf("with seed %d", seed)
				}
			}
			t.Logf("%d writes accepted, %d refused", accepted, refused)
			if accepted < rounds/20 || refused < rounds/50 {
				t.Errorf("%d writes were accepted and %d refused: too few to tell", accepted, refused)
			}
		})
	}
}

func FuzzWritesComeOutAsUpstreams(f *testing.F) {
	f.Fuzz(func(t *testing.T, which uint8, seed int64) {
		kinds := resource.Builtin()
		kind := kinds[int(which)%len(kinds)]
		if theirs, ok := strategies[kind.Spec.Resource.String()]; ok {
			compare(t, kind, theirs, seed)
		}
	})
}

// compare tries one new object and, for each path of the kind, one change, and
// counts what became of them.
func compare(t *testing.T, kind *resource.Kind, theirs upstream, seed int64) (accepted, refused int) {
	t.Helper()
	random := rand.New(rand.NewSource(seed))
	registry := resource.New(storetest.New(t), resource.AdmitAll{})
	ns := ""
	if kind.Namespaced() {
		ns = "default"
	}
	ctx := genericrequest.WithRequestInfo(genericrequest.WithNamespace(t.Context(), ns), &genericrequest.RequestInfo{
		IsResourceRequest: true, APIGroup: kind.Spec.Kind.Group, APIVersion: kind.Spec.Kind.Version, Resource: kind.Spec.Resource.Resource,
	})

	count := func(err error) {
		if err == nil {
			accepted++
		} else {
			refused++
		}
	}
	example := decode(t, kind, theirs.example)
	if changed, ok := graft(t, kind, example, random); ok && theirs.object != nil {
		changed.SetNamespace(ns)
		heard, told := &texts{}, &texts{}
		got, err := registry.Create(warning.WithWarningRecorder(ctx, heard), kind, ns, changed.DeepCopyObject().(store.Object), resource.CreateOptions{DryRun: true})
		want, wantErr := upstreamCreate(warning.WithWarningRecorder(ctx, told), kind, theirs.object, changed)
		count(wantErr)
		alike(t, "create", changed, got, want, err, wantErr)
		if err == nil && !slices.Equal(*heard, *told) {
			t.Errorf("create %s\nwarned of %q, want %q", text(changed), *heard, *told)
		}
	}
	old, err := registry.Create(ctx, kind, ns, example, resource.CreateOptions{})
	if err != nil {
		t.Fatalf("the example is refused: %v", err)
	}
	if old, err = registry.Store().Table(kind.Spec).Get(ctx, ns, old.GetName()); err != nil {
		t.Fatal(err)
	}
	for _, path := range theirs.paths() {
		changed, ok := graft(t, kind, old, random)
		if !ok {
			continue
		}
		got, _, err := registry.Update(ctx, kind, ns, old.GetName(), path, func(store.Object) (store.Object, error) {
			return changed.DeepCopyObject().(store.Object), nil
		}, resource.UpdateOptions{DryRun: true})
		want, wantErr := upstreamUpdate(ctx, kind, theirs.at(path), changed, old)
		count(wantErr)
		alike(t, fmt.Sprintf("update %q of %s\nto", path, text(old)), changed, got, want, err, wantErr)
	}
	return accepted, refused
}

// alike compares two outcomes of one write.
func alike(t *testing.T, what string, sent, got, want store.Object, err, wantErr error) {
	t.Helper()
	if err != nil || wantErr != nil {
		if a, b := reasons(err), reasons(wantErr); !slices.Equal(a, b) {
			t.Errorf("%s %s\nis refused\n%v\nwant\n%v", what, text(sent), a, b)
		}
		return
	}
	if a, b := outcome(got), outcome(want); a != b {
		t.Errorf("%s %s\n(-upstream +ours):\n%s", what, text(sent), cmp.Diff(b, a))
	}
}

// A job has its uid, which is new each time, in its labels.
var anyUID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// outcome is what a write left, without what differs each time.
func outcome(obj store.Object) string {
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetManagedFields(nil)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return anyUID.ReplaceAllString(text(obj), "uid")
}

// reasons are what a refusal says, in any order.
func reasons(err error) []string {
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return []string{fmt.Sprint(err)}
	}
	var all []string
	for _, c := range status.Status().Details.Causes {
		all = append(all, anyUID.ReplaceAllString(fmt.Sprintf("%s: %s: %s", c.Field, c.Type, c.Message), "uid"))
	}
	slices.Sort(all)
	return all
}

// upstreamCreate takes a decoded object the way that kube-apiserver takes it.
func upstreamCreate(ctx context.Context, kind *resource.Kind, s rest.RESTCreateStrategy, sent store.Object) (store.Object, error) {
	in, err := internal(sent)
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(in)
	if err != nil {
		return nil, err
	}
	rest.WipeObjectMetaSystemFields(m)
	rest.FillObjectMetaSystemFields(m)
	if err := rest.BeforeCreate(s, ctx, in); err != nil {
		return nil, err
	}
	return external(kind, in)
}

// upstreamUpdate does the same for a change of old.
func upstreamUpdate(ctx context.Context, kind *resource.Kind, s rest.RESTUpdateStrategy, sent, old store.Object) (store.Object, error) {
	in, err := internal(sent)
	if err != nil {
		return nil, err
	}
	was, err := internal(old)
	if err != nil {
		return nil, err
	}
	if err := rest.BeforeUpdate(s, ctx, in, was); err != nil {
		return nil, err
	}
	return external(kind, in)
}

func internal(obj store.Object) (runtime.Object, error) {
	obj = obj.DeepCopyObject().(store.Object)
	legacyscheme.Scheme.Default(obj)
	return legacyscheme.Scheme.ConvertToVersion(obj, runtime.InternalGroupVersioner)
}

// external is how a stored object is read: defaults apply again.
func external(kind *resource.Kind, in runtime.Object) (store.Object, error) {
	out := kind.Spec.New()
	if err := legacyscheme.Scheme.Convert(in, out, nil); err != nil {
		return nil, err
	}
	legacyscheme.Scheme.Default(out)
	return out, nil
}

// graft changes some places of a copy of obj to what a random object of the kind
// has there; some it empties. False: what came out can't be read.
func graft(t *testing.T, kind *resource.Kind, obj store.Object, random *rand.Rand) (store.Object, bool) {
	t.Helper()
	filled := kind.Spec.New()
	in, err := legacyscheme.Scheme.New(kind.Spec.Kind.GroupKind().WithVersion(runtime.APIVersionInternal))
	if err != nil {
		t.Fatal(err)
	}
	fuzzer.FuzzerFor(apitesting.FuzzerFuncs, rand.NewSource(random.Int63()), legacyscheme.Codecs).Fill(in)
	if err := legacyscheme.Scheme.Convert(in, filled, nil); err != nil {
		return nil, false
	}
	mine, other := tree(t, obj), tree(t, filled)
	for range 1 + random.Intn(3) {
		mix(mine, other, random, true)
	}
	data, err := json.Marshal(mine)
	if err != nil {
		t.Fatal(err)
	}
	changed := kind.Spec.New()
	if err := json.Unmarshal(data, changed); err != nil {
		return nil, false
	}
	// Of the metadata only what users write at will: the rest is no kind's business.
	// Two annotations stand for fields that apps/v1 has lost, and are left alone.
	labels, annotations, finalizers := changed.GetLabels(), changed.GetAnnotations(), changed.GetFinalizers()
	m, err := meta.Accessor(obj.DeepCopyObject())
	if err != nil {
		t.Fatal(err)
	}
	reflect.ValueOf(changed).Elem().FieldByName("ObjectMeta").Set(reflect.ValueOf(m).Elem().FieldByName("ObjectMeta"))
	changed.SetLabels(labels)
	for _, lost := range []string{"deprecated.deployment.rollback.to", "deprecated.daemonset.template.generation"} {
		if delete(annotations, lost); obj.GetAnnotations()[lost] != "" {
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[lost] = obj.GetAnnotations()[lost]
		}
	}
	changed.SetAnnotations(annotations)
	changed.SetFinalizers(finalizers)
	return changed, true
}

// odd are values that rules care about.
var odd = []any{"", "x", "a/b", "None", "Local", "TCP", "UDP", "10.0.0.1", "fd00::1", "10.0.0.0/8", "0", "100m", "5Gi",
	float64(-1), float64(0), float64(1), float64(80), float64(70000), true, false, nil}

// mix walks down both trees to a random place and changes mine there.
func mix(mine, other any, random *rand.Rand, top bool) {
	switch mine := mine.(type) {
	case map[string]any:
		theirs, _ := other.(map[string]any)
		var names []string
		for name := range mine {
			names = append(names, name)
		}
		for name := range theirs {
			if _, both := mine[name]; !both {
				names = append(names, name)
			}
		}
		names = slices.DeleteFunc(names, func(n string) bool { return top && (n == "kind" || n == "apiVersion") })
		if len(names) == 0 {
			return
		}
		slices.Sort(names)
		name := names[random.Intn(len(names))]
		switch value := mine[name].(type) {
		case map[string]any, []any:
			if random.Intn(4) > 0 {
				mix(value, theirs[name], random, false)
				return
			}
		}
		switch n := random.Intn(8); {
		case n == 0 && !top:
			delete(mine, name)
		case n == 1 && !top:
			mine[name] = odd[random.Intn(len(odd))]
		case theirs[name] != nil && name != "metadata":
			mine[name] = theirs[name]
		}
	case []any:
		if len(mine) == 0 {
			return
		}
		at := random.Intn(len(mine))
		var theirs any
		if list, ok := other.([]any); ok && len(list) > 0 {
			theirs = list[random.Intn(len(list))]
		}
		switch mine[at].(type) {
		case map[string]any, []any:
			mix(mine[at], theirs, random, false)
		default:
			mine[at] = odd[random.Intn(len(odd))]
		}
	}
}

func tree(t *testing.T, obj store.Object) map[string]any {
	t.Helper()
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

func decode(t *testing.T, kind *resource.Kind, example string) store.Object {
	t.Helper()
	obj := kind.Spec.New()
	if err := yaml.UnmarshalStrict([]byte(example), obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

func text(obj any) string {
	if v := reflect.ValueOf(obj); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return "nothing"
	}
	data, err := json.MarshalIndent(obj, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// texts records warnings.
type texts []string

func (w *texts) AddWarning(_, text string) { *w = append(*w, text) }
