// Package openapi serves the OpenAPI documents of the API: what kubectl explain
// and kubectl apply read, and what generates clients. The documents are
// Kubernetes' own, cut down at build time to what is served; they are held and
// sent compressed, and never parsed here. To them come those of the kinds that
// users defined (custom.go).
package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/munnerz/goautoneg"

	"github.com/musterhq/muster/control/resource"
)

//go:generate go run ./gen

//go:embed documents/*.gz
var documents embed.FS

// immutable is how long a client may keep a document that it asked for by its
// hash.
const immutable = 365 * 24 * time.Hour

const (
	jsonType       = "application/json"
	swaggerPBType  = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	swaggerPBTypeA = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
)

type document struct {
	compressed []byte
	hash       string
}

func (d document) etag() string { return strconv.Quote(d.hash) }

// Handler answers /openapi/v2, /openapi/v3 and what is below /openapi/v3/.
type Handler struct {
	v3      map[string]document // by path, such as api/v1
	index   document
	swagger document
	binary  document
	paths   map[string]indexEntry // of index
	catalog func() *resource.Catalog
	custom  atomic.Pointer[custom]
}

// New reads the embedded documents.
func New() (*Handler, error) {
	h := &Handler{v3: map[string]document{}}
	entries, err := documents.ReadDir("documents")
	if err != nil {
		return nil, err
	}
	index := struct {
		Paths map[string]indexEntry `json:"paths"`
	}{map[string]indexEntry{}}
	for _, entry := range entries {
		b, err := documents.ReadFile(path.Join("documents", entry.Name()))
		if err != nil {
			return nil, err
		}
		d := document{compressed: b, hash: fmt.Sprintf("%X", sha512.Sum512(b))}
		switch name := entry.Name(); name {
		case "swagger.json.gz":
			h.swagger = d
		case "swagger.pb.gz":
			h.binary = d
		default:
			at := strings.ReplaceAll(strings.TrimSuffix(name, ".json.gz"), "__", "/")
			h.v3[at] = d
			index.Paths[at] = indexEntry{"/openapi/v3/" + at + "?hash=" + url.QueryEscape(d.hash)}
		}
	}
	b, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	h.index, h.paths = compress(b), index.Paths
	return h, nil
}

type indexEntry struct {
	URL string `json:"serverRelativeURL"`
}

// WithCustom adds the documents of custom kinds, which catalog always has the
// newest of. Before the first request.
func (h *Handler) WithCustom(catalog func() *resource.Catalog) *Handler {
	h.catalog = catalog
	return h
}

// Paths are the names of the documents of version 3, such as api/v1.
func (h *Handler) Paths() []string {
	var paths []string
	for at := range h.v3 {
		paths = append(paths, at)
	}
	return paths
}

// Document is an uncompressed document of version 3.
func (h *Handler) Document(at string) ([]byte, error) {
	d, ok := h.v3[at]
	if !ok {
		return nil, fmt.Errorf("no OpenAPI document for %s", at)
	}
	return d.uncompressed()
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	if h.serveCustom(w, r) {
		return
	}
	switch at := strings.TrimSuffix(r.URL.Path, "/"); at {
	case "/openapi/v2":
		switch accepted(r, jsonType, swaggerPBType, swaggerPBTypeA) {
		case jsonType:
			serve(w, r, jsonType, h.swagger)
		case swaggerPBType, swaggerPBTypeA:
			serve(w, r, swaggerPBType, h.binary)
		default:
			http.Error(w, "not acceptable", http.StatusNotAcceptable)
		}
	case "/openapi/v3":
		serve(w, r, jsonType, h.index)
	default:
		d, ok := h.v3[strings.TrimPrefix(at, "/openapi/v3/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if accepted(r, jsonType) == "" {
			http.Error(w, "not acceptable", http.StatusNotAcceptable)
			return
		}
		serveHashed(w, r, at, d)
	}
}

// serveHashed lets a client that asks for a document by its hash keep it.
func serveHashed(w http.ResponseWriter, r *http.Request, at string, d document) {
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != d.hash {
			// An old hash, kept by a client from before a change.
			http.Redirect(w, r, at+"?hash="+url.QueryEscape(d.hash), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().Add(immutable).UTC().Format(http.TimeFormat))
	}
	serve(w, r, jsonType, d)
}

func serve(w http.ResponseWriter, r *http.Request, contentType string, d document) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", d.etag())
	body := d.compressed
	if AcceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
	} else {
		var err error
		if body, err = d.uncompressed(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	if match := r.Header.Get("If-None-Match"); match == d.etag() || match == "*" {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // an error means that the client went away
	}
}

// accepted is the first of offers that the request takes, in the order of the
// request's preference, or empty.
func accepted(r *http.Request, offers ...string) string {
	header := r.Header.Get("Accept")
	if header == "" {
		return offers[0]
	}
	return goautoneg.Negotiate(header, offers)
}

// AcceptsGzip says whether the client takes a compressed answer.
func AcceptsGzip(r *http.Request) bool {
	for encoding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, parameters, _ := strings.Cut(strings.TrimSpace(encoding), ";")
		if name == "gzip" && strings.ReplaceAll(parameters, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

func compress(b []byte) document {
	var buffer bytes.Buffer
	compressor := gzip.NewWriter(&buffer)
	_, _ = compressor.Write(b) // a bytes.Buffer takes all
	_ = compressor.Close()
	return document{compressed: buffer.Bytes(), hash: fmt.Sprintf("%X", sha512.Sum512(b))}
}

func (d document) uncompressed() ([]byte, error) {
	reader, err := gzip.NewReader(bytes.NewReader(d.compressed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}
