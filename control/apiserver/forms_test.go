package apiserver

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	clientdiscovery "k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/control/apiserver/openapi"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const acceptTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"

func TestFormsOfAnObject(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	path := "/api/v1/namespaces/default/pods/web"
	get := func(accept string) answer { return f.do(f.admin(), "GET", path, "", "Accept", accept) }

	var fromJSON, fromYAML, fromProtobuf corev1.Pod
	get("application/json").into(t, &fromJSON)
	asYAML := get("application/yaml")
	if err := yaml.UnmarshalStrict(asYAML.body, &fromYAML); err != nil || asYAML.header.Get("Content-Type") != mediaYAML {
		t.Errorf("YAML: %v: %s", err, asYAML.body)
	}
	binary := get(mediaProtobuf)
	if _, _, err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Decode(binary.body, nil, &fromProtobuf); err != nil {
		t.Fatal(err)
	}
	if fromJSON.Kind != "Pod" || fromJSON.APIVersion != "v1" || fromJSON.ResourceVersion == "" {
		t.Errorf("JSON: %+v", fromJSON)
	}
	fromProtobuf.TypeMeta = fromJSON.TypeMeta // upstream's decoder drops it
	for form, pod := range map[string]corev1.Pod{"YAML": fromYAML, "protobuf": fromProtobuf} {
		if want, got := mustJSON(t, fromJSON), mustJSON(t, pod); !bytes.Equal(want, got) {
			t.Errorf("%s differs from JSON:\n%s\n%s", form, got, want)
		}
	}
	// Byte for byte what upstream's encoder writes for the same object.
	var upstream bytes.Buffer
	info, _ := runtime.SerializerInfoForMediaType(kube.Codecs.SupportedMediaTypes(), mediaProtobuf)
	if err := kube.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion).Encode(&fromProtobuf, &upstream); err != nil {
		t.Fatal(err)
	}
	if !sameProtobuf(t, upstream.Bytes(), binary.body) {
		t.Error("the protobuf form does not say the same as upstream's")
	}

	var table metav1.Table
	get(acceptTable).into(t, &table)
	if table.Kind != "Table" || table.APIVersion != "meta.k8s.io/v1" || len(table.Rows) != 1 || table.ResourceVersion != fromJSON.ResourceVersion {
		t.Fatalf("table: %+v", table)
	}
	var row metav1.PartialObjectMetadata
	if err := json.Unmarshal(table.Rows[0].Object.Raw, &row); err != nil || row.Kind != "PartialObjectMetadata" || row.Name != "web" {
		t.Errorf("row's object: %s (%v)", table.Rows[0].Object.Raw, err)
	}
	var partial metav1.PartialObjectMetadata
	get("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").into(t, &partial)
	if partial.Kind != "PartialObjectMetadata" || partial.UID != fromJSON.UID || partial.ResourceVersion != fromJSON.ResourceVersion {
		t.Errorf("metadata: %+v", partial)
	}
	if got := get("image/png"); got.code != http.StatusNotAcceptable || got.status(t).Reason != "NotAcceptable" {
		t.Errorf("a picture: %d, want 406", got.code)
	}
	if got := get("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1"); got.code != http.StatusNotAcceptable {
		t.Errorf("a table in protobuf: %d, want 406", got.code)
	}
	if got := get("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json"); got.code != http.StatusOK || got.header.Get("Content-Type") != mediaJSON {
		t.Errorf("a table in protobuf, or else JSON: %d %s, want JSON", got.code, got.header.Get("Content-Type"))
	}
	if got := get(""); !strings.HasPrefix(string(got.body), `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web"`) {
		t.Errorf("plain: %.80s", got.body)
	}
	if got := f.do(f.admin(), "GET", path+"?pretty=true", ""); !strings.HasPrefix(string(got.body), "{\n  \"kind\": \"Pod\",\n") {
		t.Errorf("pretty: %.80q", got.body)
	}
	if got := f.do(f.admin(), "HEAD", path, ""); got.code != 200 || len(got.body) != 0 {
		t.Errorf("HEAD: %d with %d bytes, want 200 and none", got.code, len(got.body))
	}
}

// sameProtobuf compares what two encodings say: the spliced one has the
// resourceVersion in a second metadata.
func sameProtobuf(t *testing.T, a, b []byte) bool {
	t.Helper()
	var pods [2]corev1.Pod
	for i, body := range [][]byte{a, b} {
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(bytes.TrimPrefix(body, []byte(protobufMagic))); err != nil {
			t.Fatal(err)
		}
		if unknown.Kind != "Pod" || unknown.APIVersion != "v1" {
			t.Errorf("envelope of %s %s", unknown.APIVersion, unknown.Kind)
		}
		if err := pods[i].Unmarshal(unknown.Raw); err != nil {
			t.Fatal(err)
		}
	}
	return reflect.DeepEqual(pods[0], pods[1])
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFormsOfAList(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.bound(fmt.Sprintf("p%d", i), "n1")
	}
	list := func(accept string, headers ...string) answer {
		return f.do(f.admin(), "GET", "/api/v1/namespaces/default/pods", "", append(headers, "Accept", accept)...)
	}
	var fromJSON, fromYAML, fromProtobuf corev1.PodList
	list("application/json").into(t, &fromJSON)
	if err := yaml.Unmarshal(list("application/yaml").body, &fromYAML); err != nil {
		t.Fatal(err)
	}
	if _, _, err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Decode(list(mediaProtobuf).body, nil, &fromProtobuf); err != nil {
		t.Fatal(err)
	}
	if len(fromJSON.Items) != 3 || fromJSON.Kind != "PodList" || fromJSON.ResourceVersion != fmt.Sprint(f.store.Revision()) || fromJSON.Items[0].Kind != "" {
		t.Errorf("JSON: %+v", fromJSON)
	}
	fromProtobuf.TypeMeta = fromJSON.TypeMeta
	for form, l := range map[string]corev1.PodList{"YAML": fromYAML, "protobuf": fromProtobuf} {
		if want, got := mustJSON(t, fromJSON), mustJSON(t, l); !bytes.Equal(want, got) {
			t.Errorf("%s differs from JSON:\n%s\n%s", form, got, want)
		}
	}
	var table metav1.Table
	list(acceptTable).into(t, &table)
	if len(table.Rows) != 3 || table.ColumnDefinitions[0].Name != "Name" || table.Rows[2].Cells[0] != "p2" || table.ResourceVersion != fromJSON.ResourceVersion {
		t.Errorf("table: %+v", table)
	}
	var none corev1.PodList
	empty := f.do(f.admin(), "GET", "/api/v1/namespaces/none/pods", "")
	empty.into(t, &none)
	if !strings.Contains(string(empty.body), `"items":[]`) {
		t.Errorf("an empty list: %s, want [] for its items", empty.body)
	}
	if got := f.do(f.admin(), "GET", "/api/v1/pods?includeObject=Everything", "", "Accept", acceptTable); got.code != 400 {
		t.Errorf("includeObject=Everything: %d, want 400", got.code)
	}

	cfg := f.admin()
	client, err := metadata.NewForConfigAndClient(metadata.ConfigFor(cfg), f.httpClient(cfg))
	if err != nil {
		t.Fatal(err)
	}
	partial, err := client.Resource(resource.Pods.GroupVersionResource()).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(partial.Items) != 3 || partial.Items[1].Name != "p1" || partial.ResourceVersion != fromJSON.ResourceVersion {
		t.Errorf("metadata client: %+v, %v", partial, err)
	}
}

func TestLargeListsAreCompressed(t *testing.T) {
	f := newFixture(t)
	for i := range 200 {
		pod := newPod(fmt.Sprintf("p%03d", i))
		pod.Annotations = map[string]string{"filler": strings.Repeat("x", 1000)}
		if _, err := f.reg.Create(t.Context(), resource.Pods, "default", pod, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, media := range []string{mediaJSON, mediaProtobuf, mediaYAML} {
		plain := f.do(f.admin(), "GET", "/api/v1/pods", "", "Accept", media, "Accept-Encoding", "identity")
		small := f.do(f.admin(), "GET", "/api/v1/pods", "", "Accept", media, "Accept-Encoding", "gzip")
		if plain.header.Get("Content-Encoding") != "" || small.header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: encodings %q and %q", media, plain.header.Get("Content-Encoding"), small.header.Get("Content-Encoding"))
		}
		reader, err := gzip.NewReader(bytes.NewReader(small.body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(reader)
		if err != nil || !bytes.Equal(got, plain.body) || len(small.body) > len(plain.body)/5 {
			t.Errorf("%s: %d bytes compressed from %d, %v", media, len(small.body), len(plain.body), err)
		}
	}
	if got := f.do(f.admin(), "GET", "/api/v1/namespaces", "", "Accept-Encoding", "gzip"); got.header.Get("Content-Encoding") != "" {
		t.Error("a small list was compressed")
	}
}

// metadata must be field 1 of every stored kind, or splicing a resourceVersion
// into its bytes, and reading its metadata alone, would change another field.
func TestMetadataIsTheFirstFieldOfEveryKind(t *testing.T) {
	f := newFixture(t)
	for _, kind := range f.reg.Kinds() {
		field, ok := reflect.TypeOf(kind.Spec.New()).Elem().FieldByName("ObjectMeta")
		if !ok || !strings.HasPrefix(field.Tag.Get("protobuf"), "bytes,1,") {
			t.Errorf("%s: metadata has the tag %q, want field 1", kind.Spec.Kind.Kind, field.Tag.Get("protobuf"))
		}
		list := reflect.TypeOf(kind.Spec.NewList()).Elem()
		items, _ := list.FieldByName("Items")
		if !strings.HasPrefix(items.Tag.Get("protobuf"), "bytes,2,") {
			t.Errorf("%s: items have the tag %q, want field 2", list.Name(), items.Tag.Get("protobuf"))
		}
		if want := kind.Spec.Kind.Kind + "List"; list.Name() != want {
			t.Errorf("list of %s is called %s, want %s", kind.Spec.Kind.Kind, list.Name(), want)
		}
	}
}

func TestDiscoveryInEveryForm(t *testing.T) {
	f := newFixture(t)
	cfg := f.admin()
	client, err := clientdiscovery.NewDiscoveryClientForConfigAndClient(cfg, f.httpClient(cfg))
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	aggregated := map[string]metav1.APIResource{}
	for _, list := range lists {
		for _, r := range list.APIResources {
			aggregated[list.GroupVersion+" "+r.Name] = r
		}
	}
	pods := aggregated["v1 pods"]
	if pods.Kind != "Pod" || !pods.Namespaced || pods.SingularName != "pod" || !slices.Contains(pods.ShortNames, "po") || !slices.Contains(pods.Verbs, "deletecollection") || !slices.Contains(pods.Categories, "all") {
		t.Errorf("pods: %+v", pods)
	}
	for _, name := range []string{"pods/status", "pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/binding", "replicationcontrollers/scale", "nodes/status", "namespaces/finalize"} {
		if aggregated["v1 "+name].Kind == "" {
			t.Errorf("%s is not discovered", name)
		}
	}
	if scale := aggregated["v1 replicationcontrollers/scale"]; scale.Group != "autoscaling" || scale.Version != "v1" || scale.Kind != "Scale" {
		t.Errorf("scale: %+v, want autoscaling/v1 Scale", scale)
	}
	// The old form, which drain reads, says the same.
	var plain metav1.APIResourceList
	f.do(cfg, "GET", "/api/v1", "").into(t, &plain)
	for _, list := range lists {
		if list.GroupVersion == "v1" && len(plain.APIResources) != len(list.APIResources) {
			t.Errorf("%d resources in /api/v1, %d aggregated", len(plain.APIResources), len(list.APIResources))
		}
	}
	for _, r := range plain.APIResources {
		if r.Name == "replicationcontrollers/scale" && (r.Group != "autoscaling" || r.Version != "v1" || r.Kind != "Scale") {
			t.Errorf("scale: %+v", r)
		}
	}
	var versions metav1.APIVersions
	f.do(cfg, "GET", "/api", "").into(t, &versions)
	if !slices.Equal(versions.Versions, []string{"v1"}) {
		t.Errorf("/api: %+v", versions)
	}
	var groups metav1.APIGroupList
	f.do(cfg, "GET", "/apis", "").into(t, &groups)
	if groups.Kind != "APIGroupList" {
		t.Errorf("/apis: %+v", groups)
	}
	for _, version := range []string{"v2", "v2beta1"} {
		accept := "application/json;g=apidiscovery.k8s.io;v=" + version + ";as=APIGroupDiscoveryList"
		got := f.do(cfg, "GET", "/api", "", "Accept", accept)
		var list discoveryv2.APIGroupDiscoveryList
		got.into(t, &list)
		if list.APIVersion != "apidiscovery.k8s.io/"+version || len(list.Items) != 1 || list.Items[0].Versions[0].Version != "v1" || got.header.Get("Content-Type") != accept {
			t.Errorf("%s: %+v as %s", version, list.TypeMeta, got.header.Get("Content-Type"))
		}
		again := f.do(cfg, "GET", "/api", "", "Accept", accept, "If-None-Match", got.header.Get("Etag"))
		if got.header.Get("Etag") == "" || again.code != http.StatusNotModified || len(again.body) != 0 {
			t.Errorf("%s asked again: %d, want 304", version, again.code)
		}
	}
	for _, path := range []string{"/api/v9", "/apis/none", "/apis/none/v1"} {
		if got := f.do(cfg, "GET", path, ""); got.code != 404 {
			t.Errorf("%s: %d, want 404", path, got.code)
		}
	}
}

// kubectl explain reads OpenAPI, kubectl api-resources reads discovery: whatever
// one knows, the other must know too.
func TestOpenAPIAgreesWithDiscovery(t *testing.T) {
	f := newFixture(t)
	documents, err := openapi.New()
	if err != nil {
		t.Fatal(err)
	}
	verbs := map[string]string{"get": "get", "put": "update", "post": "create", "patch": "patch", "delete": "delete"}
	described := map[string][]string{}
	for _, at := range documents.Paths() {
		b, err := documents.Document(at)
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			Paths map[string]map[string]json.RawMessage `json:"paths"`
		}
		if err := json.Unmarshal(b, &document); err != nil {
			t.Fatal(err)
		}
		for path, methods := range document.Paths {
			target, err := parsePath("GET", strings.NewReplacer("{", "", "}", "").Replace(path))
			if err != nil || target.name == "" {
				continue // discovery, or a collection, whose verbs the object's imply
			}
			name := target.resource
			if target.subresource != "" {
				name += "/" + target.subresource
			}
			for method := range methods {
				if verb := verbs[method]; verb != "" {
					described[at+" "+name] = append(described[at+" "+name], verb)
				}
			}
		}
	}
	discovered := map[string][]string{}
	for gv, list := range f.server.discovered().resources {
		at := "apis/" + gv.String()
		if gv.Group == "" {
			at = "api/" + gv.Version
		}
		for _, r := range list {
			for _, verb := range r.Verbs {
				if verb == "get" || verb == "update" || verb == "patch" || verb == "delete" || verb == "create" && strings.Contains(r.Name, "/") {
					discovered[at+" "+r.Name] = append(discovered[at+" "+r.Name], verb)
				}
			}
		}
	}
	for name, want := range discovered {
		got := described[name]
		slices.Sort(got)
		got = slices.Compact(got) // a proxy is there with and without a path
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: OpenAPI has %v, discovery %v: run go generate ./control/apiserver/openapi after adding it to gen", name, got, want)
		}
	}
	for name, got := range described {
		if discovered[name] == nil {
			t.Errorf("%s: OpenAPI has %v, discovery nothing", name, got)
		}
	}
}

// Watches of one kind render an event once in each form, and never share it with
// a form that differs.
func TestEventsAreRenderedOncePerForm(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	item, _, err := f.store.Table(store.Pods).GetItem("default", "web")
	if err != nil {
		t.Fatal(err)
	}
	cache := newEventCache()
	renders := 0
	render := func(event store.Event, form eventForm) string {
		b, err := cache.render(event, form, func() ([]byte, error) {
			renders++
			return []byte(fmt.Sprint(renders)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	added, modified := store.Event{Type: "ADDED", Item: item}, store.Event{Type: "MODIFIED", Item: item}
	if a, b := render(added, eventForm{}), render(added, eventForm{}); a != b || renders != 1 {
		t.Errorf("the same twice: %s, %s, rendered %d times, want once", a, b, renders)
	}
	render(modified, eventForm{})
	render(added, eventForm{out: output{as: asTable}})
	render(added, eventForm{out: output{as: asTable}, columns: true})
	if renders != 4 {
		t.Errorf("%d renderings of four forms", renders)
	}
	for i := range eventCacheEntries {
		copied := *item
		copied.Revision += uint64(i) + 1
		render(store.Event{Type: "ADDED", Item: &copied}, eventForm{})
	}
	if len(cache.entries) != eventCacheEntries {
		t.Errorf("%d entries, want the bound of %d", len(cache.entries), eventCacheEntries)
	}
	before := renders
	if render(added, eventForm{}); renders != before+1 {
		t.Error("the oldest entry was not forgotten")
	}
	big := *item
	big.Revision = 1 << 40
	if _, err := cache.render(store.Event{Type: "ADDED", Item: &big}, eventForm{}, func() ([]byte, error) { return make([]byte, eventCacheBytes+1), nil }); err != nil {
		t.Fatal(err)
	}
	if cache.bytes > eventCacheBytes {
		t.Errorf("%d bytes held, want at most %d", cache.bytes, eventCacheBytes)
	}
}
