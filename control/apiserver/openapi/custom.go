package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/control/resource"
)

// custom is the documents of one catalog's custom kinds. Each is made when it is
// asked for: the old form, which means reading all that is embedded, hardly ever is.
type custom struct {
	catalog *resource.Catalog
	index   document
	v3      map[string]func() (document, error)
	swagger func() (document, error)
	binary  func() (document, error)
}

// serveCustom answers if custom kinds have a part in the answer.
func (h *Handler) serveCustom(w http.ResponseWriter, r *http.Request) bool {
	c, err := h.current()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return true
	}
	if c == nil {
		return false
	}
	make, contentType := func() (document, error) { return c.index, nil }, jsonType
	switch at := strings.TrimSuffix(r.URL.Path, "/"); at {
	case "/openapi/v3":
	case "/openapi/v2":
		switch accepted(r, jsonType, swaggerPBType, swaggerPBTypeA) {
		case jsonType:
			make = c.swagger
		case swaggerPBType, swaggerPBTypeA:
			make, contentType = c.binary, swaggerPBType
		default:
			return false // the refusal is the same
		}
	default:
		make = c.v3[strings.TrimPrefix(at, "/openapi/v3/")]
		if make == nil || accepted(r, jsonType) == "" {
			return false
		}
		d, err := make()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return true
		}
		serveHashed(w, r, at, d)
		return true
	}
	d, err := make()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return true
	}
	serve(w, r, contentType, d)
	return true
}

// current is what there is of custom kinds now, nil if there are none.
func (h *Handler) current() (*custom, error) {
	if h.catalog == nil {
		return nil, nil
	}
	catalog := h.catalog()
	if len(catalog.Documents()) == 0 {
		return nil, nil
	}
	if c := h.custom.Load(); c != nil && c.catalog == catalog {
		return c, nil
	}
	c := &custom{catalog: catalog, v3: map[string]func() (document, error){}}
	index := struct {
		Paths map[string]indexEntry `json:"paths"`
	}{maps.Clone(h.paths)}
	for _, d := range catalog.Documents() {
		at := "apis/" + d.GroupVersion.String()
		if _, builtin := h.v3[at]; builtin {
			continue // what is built in has no room for more
		}
		c.v3[at] = func() (document, error) {
			b, err := d.V3()
			if err != nil {
				return document{}, fmt.Errorf("OpenAPI of %s: %w", d.GroupVersion, err)
			}
			made := compress(b)
			made.hash = d.Hash
			return made, nil
		}
		index.Paths[at] = indexEntry{"/openapi/v3/" + at + "?hash=" + url.QueryEscape(d.Hash)}
	}
	b, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	c.index = compress(b)
	c.swagger = sync.OnceValues(func() (document, error) { return h.mergedSwagger(catalog.Documents()) })
	c.binary = sync.OnceValues(func() (document, error) { return h.mergedBinary(catalog.Documents()) })
	h.custom.Store(c)
	return c, nil
}

// swaggerParts are the sections that custom kinds add to.
type swaggerParts struct {
	Paths       map[string]json.RawMessage `json:"paths"`
	Definitions map[string]json.RawMessage `json:"definitions"`
}

// mergedSwagger is the embedded document and those of custom kinds. What is built
// in wins.
func (h *Handler) mergedSwagger(documents []resource.Document) (document, error) {
	b, err := h.swagger.uncompressed()
	if err != nil {
		return document{}, err
	}
	whole := map[string]json.RawMessage{}
	var parts swaggerParts
	if err := json.Unmarshal(b, &whole); err != nil {
		return document{}, err
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return document{}, err
	}
	for _, d := range documents {
		b, err := d.V2()
		if err != nil {
			return document{}, fmt.Errorf("OpenAPI of %s: %w", d.GroupVersion, err)
		}
		var more swaggerParts
		if err := json.Unmarshal(b, &more); err != nil {
			return document{}, err
		}
		add(parts.Paths, more.Paths)
		add(parts.Definitions, more.Definitions)
	}
	if whole["paths"], err = json.Marshal(parts.Paths); err != nil {
		return document{}, err
	}
	if whole["definitions"], err = json.Marshal(parts.Definitions); err != nil {
		return document{}, err
	}
	b, err = json.Marshal(whole)
	return compress(b), err
}

func add(to, from map[string]json.RawMessage) {
	for name, value := range from {
		if _, there := to[name]; !there {
			to[name] = value
		}
	}
}

// mergedBinary is the same in protobuf, where two messages one after the other
// are one with the fields of both.
func (h *Handler) mergedBinary(documents []resource.Document) (document, error) {
	merged, err := h.binary.uncompressed()
	if err != nil {
		return document{}, err
	}
	b, err := h.swagger.uncompressed()
	if err != nil {
		return document{}, err
	}
	var there swaggerParts
	if err := json.Unmarshal(b, &there); err != nil {
		return document{}, err
	}
	for _, d := range documents {
		b, err := d.V2()
		if err != nil {
			return document{}, fmt.Errorf("OpenAPI of %s: %w", d.GroupVersion, err)
		}
		parsed, err := openapi_v2.ParseDocument(b)
		if err != nil {
			return document{}, fmt.Errorf("OpenAPI of %s: %w", d.GroupVersion, err)
		}
		more := &openapi_v2.Document{Paths: &openapi_v2.Paths{}, Definitions: &openapi_v2.Definitions{}}
		for _, path := range parsed.GetPaths().GetPath() {
			if _, double := there.Paths[path.Name]; !double {
				more.Paths.Path = append(more.Paths.Path, path)
			}
		}
		for _, definition := range parsed.GetDefinitions().GetAdditionalProperties() {
			if _, double := there.Definitions[definition.Name]; !double {
				there.Definitions[definition.Name] = nil
				more.Definitions.AdditionalProperties = append(more.Definitions.AdditionalProperties, definition)
			}
		}
		if merged, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(merged, more); err != nil {
			return document{}, err
		}
	}
	return compress(merged), nil
}
