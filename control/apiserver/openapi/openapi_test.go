package openapi

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

func get(t *testing.T, h http.Handler, target string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest("GET", target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, response *http.Response) []byte {
	t.Helper()
	var reader io.Reader = response.Body
	if response.Header.Get("Content-Encoding") == "gzip" {
		decompressor, err := gzip.NewReader(reader)
		if err != nil {
			t.Fatal(err)
		}
		reader = decompressor
	}
	b, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestIndexLeadsToDocumentsThatMayBeKept(t *testing.T) {
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(body(t, get(t, h, "/openapi/v3")), &index); err != nil {
		t.Fatal(err)
	}
	at := index.Paths["api/v1"].ServerRelativeURL
	if at == "" {
		t.Fatalf("the index has no api/v1: %v", index.Paths)
	}
	for _, encoding := range []string{"gzip", "identity"} {
		response := get(t, h, at, "Accept-Encoding", encoding, "Accept", "application/json")
		if got, want := response.Header.Get("Content-Encoding") == "gzip", encoding == "gzip"; got != want {
			t.Errorf("asked for %s: compressed %t, want %t", encoding, got, want)
		}
		if got := response.Header.Get("Cache-Control"); got != "public, immutable" {
			t.Errorf("Cache-Control %q, want public, immutable", got)
		}
		var document struct {
			Components struct {
				Schemas map[string]any `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(body(t, response), &document); err != nil {
			t.Fatal(err)
		}
		// What kubectl explain pod.spec.containers walks.
		for _, name := range []string{"Pod", "PodSpec", "Container", "Node", "Namespace", "ReplicationController", "Event"} {
			if document.Components.Schemas["io.k8s.api.core.v1."+name] == nil {
				t.Errorf("no schema for %s", name)
			}
		}
		// A kube-apiserver says which values fields may have, its published documents do not.
		container := document.Components.Schemas["io.k8s.api.core.v1.Container"].(map[string]any)
		policy := container["properties"].(map[string]any)["imagePullPolicy"].(map[string]any)
		if got := fmt.Sprint(policy["enum"]); got != "[Always IfNotPresent Never]" || !strings.Contains(policy["description"].(string), "\n - `\"Never\"` means that kubelet never pulls") {
			t.Errorf("imagePullPolicy may be %s, want the three policies, and what they mean: %s", got, policy["description"])
		}
		again := get(t, h, at, "If-None-Match", response.Header.Get("Etag"))
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("asked again with the ETag: %d, want 304", again.StatusCode)
		}
	}
	stale := get(t, h, "/openapi/v3/api/v1?hash=OLD")
	if stale.StatusCode != http.StatusMovedPermanently || stale.Header.Get("Location") != at {
		t.Errorf("an old hash: %d to %q, want 301 to %q", stale.StatusCode, stale.Header.Get("Location"), at)
	}
	if got := get(t, h, "/openapi/v3/apis/settings.k8s.io/v1").StatusCode; got != http.StatusNotFound {
		t.Errorf("a group that is not served: %d, want 404", got)
	}
	if got := get(t, h, "/openapi/v3/api/v1", "Accept", "image/png").StatusCode; got != http.StatusNotAcceptable {
		t.Errorf("asked for a picture: %d, want 406", got)
	}
}

func TestVersion2InJSONAndProtobuf(t *testing.T) {
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	var swagger struct {
		Paths map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(body(t, get(t, h, "/openapi/v2")), &swagger); err != nil {
		t.Fatal(err)
	}
	// client-go's discovery asks in these words.
	response := get(t, h, "/openapi/v2", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	var document openapi_v2.Document
	if err := proto.Unmarshal(body(t, response), &document); err != nil {
		t.Fatal(err)
	}
	if got, want := len(document.GetPaths().GetPath()), len(swagger.Paths); got != want || want == 0 {
		t.Errorf("%d paths in protobuf, %d in JSON", got, want)
	}
}

func TestEmbeddedDocumentsStaySmall(t *testing.T) {
	entries, err := documents.ReadDir("documents")
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(entry.Name(), ".gz") {
			t.Errorf("%s is not compressed", entry.Name())
		}
		total += info.Size()
	}
	const most = 2 << 20
	if total > most {
		t.Errorf("%d bytes embedded, at most %d wanted", total, most)
	}
}
