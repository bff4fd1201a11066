// Command gen makes the OpenAPI documents that the API server serves, from
// those that Kubernetes publishes: it keeps the paths of the resources and
// subresources that Muster serves and the schemas that those use, and writes
// them minified and compressed into ../documents. Paths that are not served
// must go, or kubectl explain and discovery would disagree. Which values fields
// may have is in Kubernetes' code, and not in what it publishes (enums.go).
//
//	go generate ./control/apiserver/openapi
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/resource"
)

// served lists, for each group version as it stands in paths, resources with
// their subresources: what the registry has, and what the API server adds to it.
// A test in the API server compares it with discovery.
var served = func() map[string]map[string][]string {
	all := map[string]map[string][]string{
		"api/v1": {"pods": {"attach", "exec", "portforward"}},
	}
	for _, kind := range resource.Builtin() {
		groupVersion := inPaths(kind.Spec.Kind.GroupVersion())
		if all[groupVersion] == nil {
			all[groupVersion] = map[string][]string{}
		}
		name := kind.Spec.Resource.Resource
		all[groupVersion][name] = append(all[groupVersion][name], kind.SubresourceNames()...)
	}
	for _, virtual := range resource.Virtuals() {
		groupVersion := inPaths(virtual.Resource.GroupVersion())
		if all[groupVersion] == nil {
			all[groupVersion] = map[string][]string{}
		}
		all[groupVersion][virtual.Resource.Resource] = nil
	}
	return all
}()

// inPaths is how paths name a group version.
func inPaths(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("gen: ")
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		log.Fatalf("find k8s.io/kubernetes: %v", err)
	}
	module := strings.TrimSpace(string(out))
	source, enums := filepath.Join(module, "api", "openapi-spec"), readEnums(module)
	if err := os.MkdirAll("documents", 0o755); err != nil {
		log.Fatal(err)
	}
	for groupVersion := range served {
		name := strings.ReplaceAll(groupVersion, "/", "__")
		document := read(filepath.Join(source, "v3", name+"_openapi.json"))
		trim(document, "components/schemas")
		enumerate(at(document, "components/schemas").(map[string]any), enums)
		write(name+".json.gz", minified(document))
	}
	others := map[string]bool{"version": true, "api": true, "apis": true}
	for groupVersion := range served {
		if group, ok := strings.CutPrefix(path.Dir(groupVersion), "apis/"); ok {
			others["apis__"+group] = true
		}
	}
	for name := range others {
		write(name+".json.gz", minified(read(filepath.Join(source, "v3", name+"_openapi.json"))))
	}

	swagger := read(filepath.Join(source, "swagger.json"))
	trim(swagger, "definitions", "parameters")
	enumerate(at(swagger, "definitions").(map[string]any), enums)
	v2 := minified(swagger)
	write("swagger.json.gz", v2)
	parsed, err := openapi_v2.ParseDocument(v2)
	if err != nil {
		log.Fatalf("swagger.json after trimming: %v", err)
	}
	binary, err := proto.MarshalOptions{Deterministic: true}.Marshal(parsed)
	if err != nil {
		log.Fatal(err)
	}
	write("swagger.pb.gz", binary)
}

// trim removes from document the paths that are not served and, from the maps
// at sections, what no path that is left refers to.
func trim(document map[string]any, sections ...string) {
	paths := document["paths"].(map[string]any)
	for path := range paths {
		if !isServed(path) {
			delete(paths, path)
		}
	}
	used := map[string]bool{}
	mark(paths, document, used)
	for _, section := range sections {
		entries := at(document, section).(map[string]any)
		for name := range entries {
			if !used["#/"+section+"/"+name] {
				delete(entries, name)
			}
		}
	}
}

// at follows a path of keys that is separated by slashes.
func at(document any, path string) any {
	for key := range strings.SplitSeq(path, "/") {
		document = document.(map[string]any)[key]
	}
	return document
}

func isServed(at string) bool {
	at = strings.Trim(at, "/")
	if slices.Contains([]string{"version", "api", "apis", ".well-known/openid-configuration", "openid/v1/jwks"}, at) {
		return true
	}
	if group, ok := strings.CutPrefix(at, "apis/"); ok && servesGroup(group) {
		return true
	}
	for groupVersion, resources := range served {
		rest, ok := strings.CutPrefix(at, groupVersion)
		if !ok {
			continue
		}
		if rest == "" {
			return true
		}
		parts := strings.Split(strings.Trim(rest, "/"), "/")
		if parts[0] == "watch" && len(parts) > 1 {
			parts = parts[1:] // the old way to ask for a watch
		}
		// namespaces/{namespace}/pods/{name}, but not namespaces/{name}/status.
		if len(parts) > 2 && parts[0] == "namespaces" && parts[1] == "{namespace}" {
			parts = parts[2:]
		}
		subresources, ok := resources[parts[0]]
		if len(parts) == 4 && parts[3] == "{path}" {
			parts = parts[:3]
		}
		return ok && (len(parts) <= 2 || len(parts) == 3 && slices.Contains(subresources, parts[2]))
	}
	return false
}

// servesGroup says whether any version of a group is served.
func servesGroup(group string) bool {
	for groupVersion := range served {
		if strings.HasPrefix(groupVersion, "apis/"+group+"/") {
			return true
		}
	}
	return false
}

// mark notes every reference in value, and in what those refer to.
func mark(value any, document map[string]any, used map[string]bool) {
	switch v := value.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok && !used[ref] {
			used[ref] = true
			target := at(document, strings.TrimPrefix(ref, "#/"))
			if target == nil {
				log.Fatalf("reference %q leads nowhere", ref)
			}
			mark(target, document, used)
		}
		for _, inner := range v {
			mark(inner, document, used)
		}
	case []any:
		for _, inner := range v {
			mark(inner, document, used)
		}
	}
}

func read(path string) map[string]any {
	b, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.UseNumber()
	document := map[string]any{}
	if err := decoder.Decode(&document); err != nil {
		log.Fatalf("%s: %v", path, err)
	}
	return document
}

func minified(document map[string]any) []byte {
	b, err := json.Marshal(document)
	if err != nil {
		log.Fatal(err)
	}
	return b
}

// write compresses without a time or a name, so that the same input gives the
// same file.
func write(name string, content []byte) {
	var b bytes.Buffer
	compressor, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := compressor.Write(content); err != nil {
		log.Fatal(err)
	}
	if err := compressor.Close(); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("documents", name), b.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%-40s %8d bytes, %8d uncompressed\n", name, b.Len(), len(content))
}
