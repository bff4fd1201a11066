package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstreamdiscovery "k8s.io/apiserver/pkg/endpoints/discovery"

	"github.com/musterhq/muster/control/controller/customresource"
	"github.com/musterhq/muster/control/custom"
)

// newCustomFixture is a fixture that also follows definitions, as every control
// node does, and looks after them, as the leader does.
func newCustomFixture(t testing.TB) *fixture {
	t.Helper()
	f := newFixture(t)
	log := slog.New(slog.NewTextHandler(testWriter{t}, nil))
	follower, err := custom.NewFollower(custom.Config{Store: f.store, Registry: f.reg, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return follower.Run(ctx) })
	group.Go(func() error { return customresource.New(customresource.Config{Registry: f.reg, Logger: log}).Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	<-follower.Synced()
	return f
}

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// define creates a definition and waits until it is established.
func (f *fixture) define(definition string) {
	f.t.Helper()
	got := f.do(f.admin(), "POST", definitionsPath+"?fieldValidation=Strict", definition, "Content-Type", "application/yaml")
	if got.code != http.StatusCreated {
		f.t.Fatalf("define: %d %s", got.code, got.body)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	got.into(f.t, crd)
	f.established(crd.Name)
}

func (f *fixture) established(name string) {
	f.t.Helper()
	f.eventually(name+" is established", func() bool {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		f.do(f.admin(), "GET", definitionsPath+"/"+name, "").into(f.t, crd)
		for _, c := range crd.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return true
			}
		}
		return false
	})
}

func (f *fixture) eventually(what string, is func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("not in 20 s: %s", what)
		}
	}
}

// object sends a request that must be answered so and with an object.
func (f *fixture) object(code int, method, path, body string, headers ...string) *unstructured.Unstructured {
	f.t.Helper()
	got := f.do(f.admin(), method, path, body, headers...)
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(got.body); err != nil || got.code != code {
		f.t.Fatalf("%s %s: %d %s, want %d", method, path, got.code, got.body, code)
	}
	return u
}

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.colour}]
    additionalPrinterColumns:
    - {name: Colour, type: string, jsonPath: .spec.colour}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget is a thing.
        required: [spec]
        properties:
          spec:
            type: object
            required: [colour]
            x-kubernetes-validations:
            - {rule: "self.minimum <= self.replicas", message: minimum must not be above replicas}
            properties:
              colour: {type: string, enum: [red, green, blue], description: What it looks like.}
              replicas: {type: integer, default: 1, minimum: 0}
              minimum: {type: integer, default: 0}
              size:
                type: string
                x-kubernetes-validations: [{rule: "self == oldSelf", message: size is immutable}]
              port: {x-kubernetes-int-or-string: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              template: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, weight: {type: integer}}
          status:
            type: object
            properties:
              replicas: {type: integer}
              selector: {type: string}
`

const widgetsPath = "/apis/example.org/v1/namespaces/default/widgets"

func widget(name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"example.org/v1","kind":"Widget","metadata":{"name":%q},"spec":%s}`, name, spec)
}

func at(u *unstructured.Unstructured, path string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(u.Object, strings.Split(path, ".")...)
	return value
}

// An operator's day: a definition, objects of it by every verb, and the end of
// both. What could go wrong: anything that only a kind without a Go type does.
func TestCustomResourcesLiveWithEveryVerb(t *testing.T) {
	f := newCustomFixture(t)
	if got := f.do(f.admin(), "GET", widgetsPath, ""); got.code != 404 {
		t.Errorf("list before the definition: %d %s, want 404", got.code, got.body)
	}
	f.define(widgets)

	created := f.object(201, "POST", widgetsPath, widget("w", `{"colour":"red","bogus":1,"port":80,"free":{"any":{"thing":true}},
		"template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","nonsense":1},"spec":{}}}`))
	if created.GetUID() == "" || created.GetResourceVersion() == "" || created.GetGeneration() != 1 {
		t.Errorf("created without uid, version or generation: %v", created.Object["metadata"])
	}
	if at(created, "spec.replicas") != int64(1) {
		t.Errorf("replicas %v, want the default", at(created, "spec.replicas"))
	}
	if at(created, "spec.bogus") != nil || at(created, "spec.template.metadata.nonsense") != nil {
		t.Errorf("unknown fields were kept: %v", created.Object["spec"])
	}
	if at(created, "spec.free.any.thing") != true {
		t.Errorf("a field that preserves unknown ones lost them: %v", created.Object["spec"])
	}
	got := f.object(200, "GET", widgetsPath+"/w", "")
	if got.GetUID() != created.GetUID() || got.GetResourceVersion() != created.GetResourceVersion() || got.GetKind() != "Widget" {
		t.Errorf("got %v, want what was created", got.Object)
	}

	put := got.DeepCopy()
	put.Object["spec"].(map[string]any)["colour"] = "green"
	put.Object["status"] = map[string]any{"replicas": 7}
	body, err := json.Marshal(put.Object)
	if err != nil {
		t.Fatal(err)
	}
	updated := f.object(200, "PUT", widgetsPath+"/w", string(body))
	if updated.GetGeneration() != 2 || at(updated, "status") != nil || at(updated, "spec.colour") != "green" {
		t.Errorf("updated: %v, want generation 2 and no status", updated.Object)
	}
	if again := f.do(f.admin(), "PUT", widgetsPath+"/w", string(body)); again.code != 409 {
		t.Errorf("update of an old version: %d, want 409", again.code)
	}

	status := f.object(200, "PATCH", widgetsPath+"/w/status", `{"spec":{"colour":"blue"},"status":{"replicas":3,"selector":"a=b"}}`, "Content-Type", "application/merge-patch+json")
	if at(status, "spec.colour") != "green" || status.GetGeneration() != 2 || fmt.Sprint(at(status, "status.replicas")) != "3" {
		t.Errorf("status patch: %v, want the status alone changed", status.Object)
	}
	patched := f.object(200, "PATCH", widgetsPath+"/w", `[{"op":"replace","path":"/spec/colour","value":"blue"}]`, "Content-Type", "application/json-patch+json")
	if at(patched, "spec.colour") != "blue" || fmt.Sprint(at(patched, "status.replicas")) != "3" || patched.GetGeneration() != 3 {
		t.Errorf("json patch: %v", patched.Object)
	}
	if got := f.do(f.admin(), "PATCH", widgetsPath+"/w", `{}`, "Content-Type", "application/strategic-merge-patch+json"); got.code != 415 {
		t.Errorf("strategic merge patch: %d, want 415", got.code)
	}
	scale := f.object(200, "GET", widgetsPath+"/w/scale", "")
	if scale.GetKind() != "Scale" || fmt.Sprint(at(scale, "spec.replicas")) != "1" || fmt.Sprint(at(scale, "status.replicas")) != "3" || at(scale, "status.selector") != "a=b" {
		t.Errorf("scale: %v", scale.Object)
	}
	f.object(200, "PATCH", widgetsPath+"/w/scale", `{"spec":{"replicas":5}}`, "Content-Type", "application/merge-patch+json")
	if got := f.object(200, "GET", widgetsPath+"/w", ""); fmt.Sprint(at(got, "spec.replicas")) != "5" {
		t.Errorf("after scaling: %v, want 5 replicas", got.Object["spec"])
	}

	f.object(201, "POST", widgetsPath, widget("x", `{"colour":"red"}`))
	list := f.object(200, "GET", widgetsPath+"?fieldSelector=spec.colour%3Dblue", "")
	if items, _, _ := unstructured.NestedSlice(list.Object, "items"); len(items) != 1 || list.GetKind() != "WidgetList" || items[0].(map[string]any)["kind"] != "Widget" {
		t.Errorf("list of blue ones: %v, want w alone", list.Object)
	}
	if got := f.do(f.admin(), "GET", widgetsPath+"?fieldSelector=spec.size%3Dxl", ""); got.code != 400 {
		t.Errorf("selection by a field that is not selectable: %d, want 400", got.code)
	}
	table := f.do(f.admin(), "GET", widgetsPath, "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	var rows metav1.Table
	table.into(t, &rows)
	if len(rows.Rows) != 2 || rows.ColumnDefinitions[1].Name != "Colour" || rows.Rows[0].Cells[1] != "blue" {
		t.Errorf("table: %s", table.body)
	}
	partial := f.do(f.admin(), "GET", widgetsPath+"/w", "", "Accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
	if partial.code != 200 || partial.header.Get("Content-Type") != mediaProtobuf {
		t.Errorf("metadata in protobuf: %d %s", partial.code, partial.body)
	}
	if got := f.do(f.admin(), "GET", widgetsPath+"/w", "", "Accept", mediaProtobuf); got.code != 406 {
		t.Errorf("get in protobuf: %d, want 406", got.code)
	}
	if got := f.do(f.admin(), "POST", widgetsPath, "k8s\x00", "Content-Type", mediaProtobuf); got.code != 415 {
		t.Errorf("create in protobuf: %d, want 415", got.code)
	}

	gone := f.do(f.admin(), "DELETE", widgetsPath+"/x", "")
	if gone.code != 200 {
		t.Errorf("delete: %d %s", gone.code, gone.body)
	}
	if got := f.do(f.admin(), "DELETE", definitionsPath+"/widgets.example.org", ""); got.code != 200 {
		t.Fatalf("delete the definition: %d %s", got.code, got.body)
	}
	f.eventually("the definition is gone", func() bool {
		return f.do(f.admin(), "GET", definitionsPath+"/widgets.example.org", "").code == 404
	})
	if n := f.store.View().Count("widgets.example.org/"); n != 0 {
		t.Errorf("%d objects outlived their definition", n)
	}
	f.eventually("the resource is gone", func() bool { return f.do(f.admin(), "GET", widgetsPath, "").code == 404 })
}

func TestCustomResourcesAreHeldAgainstTheirSchema(t *testing.T) {
	f := newCustomFixture(t)
	f.define(widgets)
	f.object(201, "POST", widgetsPath, widget("sized", `{"colour":"red","size":"xl"}`))
	for _, c := range []struct {
		name, method, path, body, contentType string
		code                                  int
		message                               string
	}{
		{"a required field", "POST", "", widget("a", `{}`), mediaJSON, 422, "spec.colour: Required value"},
		{"an enum", "POST", "", widget("a", `{"colour":"grey"}`), mediaJSON, 422, `spec.colour: Unsupported value: "grey"`},
		{"a type", "POST", "", widget("a", `{"colour":"red","replicas":"many"}`), mediaJSON, 422, "spec.replicas: Invalid value: \"string\""},
		{"a rule", "POST", "", widget("a", `{"colour":"red","minimum":2}`), mediaJSON, 422, "minimum must not be above replicas"},
		{"a list's keys", "POST", "", widget("a", `{"colour":"red","parts":[{"name":"x"},{"name":"x"}]}`), mediaJSON, 422, "Duplicate value"},
		{"an unknown field, strictly", "POST", "?fieldValidation=Strict", widget("a", `{"colour":"red","bogus":1}`), mediaJSON, 400, `unknown field "spec.bogus"`},
		{"a field twice, strictly", "POST", "?fieldValidation=Strict", widget("a", `{"colour":"red","colour":"red"}`), mediaJSON, 400, `duplicate field "spec.colour"`},
		{"malformed metadata", "POST", "", `{"apiVersion":"example.org/v1","kind":"Widget","metadata":{"name":"a","labels":{"x":1}},"spec":{"colour":"red"}}`, mediaJSON, 400, "labels"},
		{"a name", "POST", "", widget("A_", `{"colour":"red"}`), mediaJSON, 422, "metadata.name"},
		{"another kind", "POST", "", `{"apiVersion":"example.org/v1","kind":"Gadget","metadata":{"name":"a"}}`, mediaJSON, 422, "must be Widget"},
		{"another version", "POST", "", strings.Replace(widget("a", `{"colour":"red"}`), "/v1", "/v2", 1), mediaJSON, 400, "does not match the expected API version"},
		{"a transition", "PATCH", "/sized", `{"spec":{"size":"s"}}`, "application/merge-patch+json", 422, "size is immutable"},
		{"a patch with an unknown field, strictly", "PATCH", "/sized?fieldValidation=Strict", `{"spec":{"bogus":1}}`, "application/merge-patch+json", 422, `unknown field "spec.bogus"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := f.do(f.admin(), c.method, widgetsPath+c.path, c.body, "Content-Type", c.contentType)
			if got.code != c.code || !strings.Contains(got.status(t).Message, c.message) {
				t.Errorf("%d %s, want %d %s", got.code, got.body, c.code, c.message)
			}
		})
	}
	warned := f.do(f.admin(), "POST", widgetsPath, widget("warned", `{"colour":"red","bogus":1}`))
	if warned.code != 201 || !strings.Contains(warned.header.Get("Warning"), `unknown field \"spec.bogus\"`) {
		t.Errorf("an unknown field without a directive: %d, warning %q", warned.code, warned.header.Get("Warning"))
	}
}

// kubectl explain and apply read OpenAPI, in the new form and the old.
func TestCustomResourcesAreDescribed(t *testing.T) {
	f := newCustomFixture(t)
	before := f.do(f.admin(), "GET", "/apis", "", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	f.define(widgets)
	after := f.do(f.admin(), "GET", "/apis", "", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "If-None-Match", before.header.Get("Etag"))
	if after.code != 200 || !strings.Contains(string(after.body), `"resource":"widgets"`) || !strings.Contains(string(after.body), `"subresource":"scale"`) {
		t.Errorf("discovery: %d %s", after.code, after.body)
	}
	var index struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	f.do(f.admin(), "GET", "/openapi/v3", "").into(t, &index)
	if index.Paths["api/v1"].ServerRelativeURL == "" {
		t.Error("the index lost what is built in")
	}
	got := f.do(f.admin(), "GET", index.Paths["apis/example.org/v1"].ServerRelativeURL, "")
	var document struct {
		Paths      map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]struct {
				Description string           `json:"description"`
				Kinds       []map[string]any `json:"x-kubernetes-group-version-kind"`
			} `json:"schemas"`
		} `json:"components"`
	}
	got.into(t, &document)
	widget := document.Components.Schemas["org.example.v1.Widget"]
	if widget.Description != "A widget is a thing." || len(widget.Kinds) != 1 || widget.Kinds[0]["kind"] != "Widget" {
		t.Errorf("schema: %+v", widget)
	}
	if document.Paths["/apis/example.org/v1/namespaces/{namespace}/widgets/{name}/scale"] == nil {
		t.Error("no path for the scale")
	}
	if got.header.Get("Cache-Control") != "public, immutable" {
		t.Errorf("Cache-Control %q of a document that was asked for by its hash", got.header.Get("Cache-Control"))
	}
	var swagger struct {
		Paths       map[string]any `json:"paths"`
		Definitions map[string]any `json:"definitions"`
	}
	f.do(f.admin(), "GET", "/openapi/v2", "").into(t, &swagger)
	for _, name := range []string{"org.example.v1.Widget", "io.k8s.api.core.v1.Pod"} {
		if swagger.Definitions[name] == nil {
			t.Errorf("the old form has no %s", name)
		}
	}
	binary := f.do(f.admin(), "GET", "/openapi/v2", "", "Accept", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
	parsed := &openapi_v2.Document{}
	if err := proto.Unmarshal(binary.body, parsed); err != nil {
		t.Fatalf("%d %.200q: %v", binary.code, binary.body, err)
	}
	names := map[string]int{}
	for _, d := range parsed.Definitions.AdditionalProperties {
		names[d.Name]++
	}
	if names["org.example.v1.Widget"] != 1 || names["io.k8s.api.core.v1.Pod"] != 1 || names["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"] != 1 {
		t.Errorf("definitions in protobuf: %v", names)
	}
}

// Two managers of one list: server-side apply knows its keys from the schema.
func TestCustomResourcesAreApplied(t *testing.T) {
	f := newCustomFixture(t)
	f.define(widgets)
	apply := func(code int, manager, spec string) *unstructured.Unstructured {
		t.Helper()
		return f.object(code, "PATCH", widgetsPath+"/w?fieldManager="+manager, widget("w", spec), "Content-Type", "application/apply-patch+yaml")
	}
	apply(201, "one", `{"colour":"red","parts":[{"name":"a","weight":1}]}`)
	both := apply(200, "two", `{"parts":[{"name":"b","weight":2}]}`)
	if parts, _ := at(both, "spec.parts").([]any); len(parts) != 2 {
		t.Errorf("parts %v, want those of both managers", parts)
	}
	if conflict := f.do(f.admin(), "PATCH", widgetsPath+"/w?fieldManager=two", widget("w", `{"colour":"blue"}`), "Content-Type", "application/apply-patch+yaml"); conflict.code != 409 || !strings.Contains(string(conflict.body), ".spec.colour") {
		t.Errorf("a field of another manager: %d %s, want a conflict", conflict.code, conflict.body)
	}
	less := apply(200, "one", `{"colour":"red"}`)
	if parts, _ := at(less, "spec.parts").([]any); len(parts) != 0 {
		// "two" gave its part up with its last apply that did not have it.
		if len(parts) != 1 || parts[0].(map[string]any)["name"] != "b" {
			t.Errorf("parts %v, want what the other manager has", parts)
		}
	}
	if got := f.do(f.admin(), "PATCH", widgetsPath+"/w?fieldManager=one", widget("w", `{"colour":"grey"}`), "Content-Type", "application/apply-patch+yaml"); got.code != 422 {
		t.Errorf("applied against the schema: %d %s, want 422", got.code, got.body)
	}
}

const gadgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.org}
spec:
  group: example.org
  scope: Cluster
  names: {plural: gadgets, kind: Gadget}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    deprecated: true
    schema: {openAPIV3Schema: {type: object, properties: {old: {type: string}, both: {type: string}}}}
  - name: v1
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {new: {type: string, default: fresh}, both: {type: string}}}}
`

// A kind in two versions, of which the stored one changes. What could go wrong:
// an object that is read by another version's schema than the one it was written by.
func TestCustomResourcesChangeTheirVersion(t *testing.T) {
	f := newCustomFixture(t)
	f.define(gadgets)
	old, new := "/apis/example.org/v1alpha1/gadgets", "/apis/example.org/v1/gadgets"
	created := f.do(f.admin(), "POST", old, `{"apiVersion":"example.org/v1alpha1","kind":"Gadget","metadata":{"name":"g"},"old":"a","both":"b"}`)
	if created.code != 201 || !strings.Contains(created.header.Get("Warning"), "example.org/v1alpha1 Gadget is deprecated; use example.org/v1 Gadget") {
		t.Errorf("created in a deprecated version: %d, warning %q", created.code, created.header.Get("Warning"))
	}
	got := f.object(200, "GET", new+"/g", "")
	if got.GetAPIVersion() != "example.org/v1" || at(got, "both") != "b" || at(got, "old") != nil {
		t.Errorf("in the other version: %v, want both and not old", got.Object)
	}
	var groups metav1.APIGroupList
	f.do(f.admin(), "GET", "/apis", "").into(t, &groups)
	if i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == "example.org" }); i < 0 ||
		groups.Groups[i].PreferredVersion.Version != "v1" || len(groups.Groups[i].Versions) != 2 {
		t.Errorf("groups %v, want example.org with v1 first", groups.Groups)
	}
	f.object(201, "POST", new, `{"apiVersion":"example.org/v1","kind":"Gadget","metadata":{"name":"h"},"both":"c"}`)
	if got := f.object(200, "GET", old+"/h", ""); got.GetAPIVersion() != "example.org/v1alpha1" || at(got, "both") != "c" {
		t.Errorf("written in v1, read in v1alpha1: %v", got.Object)
	}
	f.object(200, "PATCH", definitionsPath+"/gadgets.example.org", `[
		{"op":"replace","path":"/spec/versions/0/storage","value":false},
		{"op":"replace","path":"/spec/versions/1/storage","value":true}]`, "Content-Type", "application/json-patch+json")
	crd := f.object(200, "GET", definitionsPath+"/gadgets.example.org", "")
	if versions := fmt.Sprint(at(crd, "status.storedVersions")); versions != "[v1alpha1 v1]" {
		t.Errorf("stored versions %s, want both", versions)
	}
	f.eventually("the new version is stored", func() bool {
		kind := f.reg.Kind(schema.GroupResource{Group: "example.org", Resource: "gadgets"})
		return kind != nil && kind.Spec.Kind.Version == "v1"
	})
	before := f.object(200, "GET", new+"/g", "")
	body, err := before.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	after := f.object(200, "PUT", new+"/g", string(body))
	if after.GetResourceVersion() == before.GetResourceVersion() {
		t.Error("an update that changes nothing but the stored version wrote nothing, so no object could be migrated")
	}
	var hashes []string
	for _, version := range []string{"v1alpha1", "v1"} {
		var list metav1.APIResourceList
		if got := f.do(f.admin(), "GET", "/apis/example.org/"+version, ""); json.Unmarshal(got.body, &list) != nil || len(list.APIResources) == 0 {
			t.Fatalf("%s is served as %s", version, got.body)
		}
		hashes = append(hashes, list.APIResources[0].StorageVersionHash)
	}
	if want := upstreamdiscovery.StorageVersionHash("example.org", "v1", "Gadget"); hashes[0] != want || hashes[1] != want {
		t.Errorf("storage version hashes %q, want %s, which is v1's", hashes, want)
	}
	if list := f.object(200, "GET", old, ""); list.GetAPIVersion() != "example.org/v1alpha1" {
		t.Errorf("list in v1alpha1: %v", list.Object)
	}
	f.object(200, "PATCH", definitionsPath+"/gadgets.example.org", `[{"op":"replace","path":"/spec/versions/0/served","value":false}]`, "Content-Type", "application/json-patch+json")
	f.eventually("the old version is not served", func() bool { return f.do(f.admin(), "GET", old, "").code == 404 })
}

// A watch ends when its kind becomes another one, after what happened before; the
// next shows the objects as the new schema has them.
func TestCustomWatchEndsWithItsSchema(t *testing.T) {
	f := newCustomFixture(t)
	f.define(gadgets)
	path := "/apis/example.org/v1alpha1/gadgets"
	f.object(201, "POST", path, `{"apiVersion":"example.org/v1alpha1","kind":"Gadget","metadata":{"name":"g"}}`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", f.http.URL+path+"?watch=true&resourceVersion=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := f.httpClient(f.admin()).Do(r) // from here on the watch is there
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Body.Close()
	f.object(201, "POST", path, `{"apiVersion":"example.org/v1alpha1","kind":"Gadget","metadata":{"name":"h"}}`)
	f.object(200, "PATCH", definitionsPath+"/gadgets.example.org", `[
		{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/more","value":{"type":"string","default":"some"}}]`, "Content-Type", "application/json-patch+json")
	got, err := io.ReadAll(watch.Body)
	if err != nil {
		t.Fatalf("the watch did not end: %v", err)
	}
	if !strings.Contains(string(got), `"name":"g"`) || !strings.Contains(string(got), `"name":"h"`) {
		t.Errorf("watched %s, want both objects", got)
	}
	if now := f.object(200, "GET", path+"/g", ""); at(now, "more") != "some" {
		t.Errorf("after the change: %v, want the new default", now.Object)
	}
}
