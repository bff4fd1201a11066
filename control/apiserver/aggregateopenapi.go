package apiserver

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
)

// withDocumentsOfServices adds to the OpenAPI documents served here those of
// services: to the index where they are, and each by asking its service.
func (s *Server) withDocumentsOfServices(here http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/")
		if parts := strings.Split(path, "/"); len(parts) == 4 && parts[1] == "apis" {
			service := s.aggregated(parts[2], parts[3])
			if who, known := genericrequest.UserFrom(r.Context()); service != nil && known {
				r, cancel := s.withTimeout(r)
				defer cancel()
				s.aggregate.Pass(w, withoutCredentials(r), service, who, s.failPassed)
				return
			}
		}
		documents := s.documentsOfServices()
		if path != "" || len(documents) == 0 {
			here.ServeHTTP(w, r)
			return
		}
		if err := s.serveIndex(w, r, here, documents); err != nil {
			s.fail(w, r, err)
		}
	})
}

// documentsOfServices are where services have their documents, by the name in
// the index.
func (s *Server) documentsOfServices() map[string]string {
	if s.aggregate == nil {
		return nil
	}
	documents := map[string]string{}
	for _, offer := range s.aggregate.Discovered() {
		if gv := (schema.GroupVersion{Group: offer.Group, Version: offer.Version}); offer.Document != "" {
			documents["apis/"+gv.String()] = offer.Document
		}
	}
	return documents
}

// serveIndex answers with the index that is here and what services add to it.
func (s *Server) serveIndex(w http.ResponseWriter, r *http.Request, here http.Handler, documents map[string]string) error {
	plain := r.Clone(r.Context())
	plain.Method = http.MethodGet
	plain.Header = http.Header{"Accept": {mediaJSON}}
	var held heldAnswer
	here.ServeHTTP(&held, plain)
	type entry struct {
		At string `json:"serverRelativeURL"`
	}
	var index struct {
		Paths map[string]entry `json:"paths"`
	}
	if err := json.Unmarshal(held.body.Bytes(), &index); err != nil {
		return fmt.Errorf("index of OpenAPI documents: %w", err)
	}
	for name, at := range documents {
		if _, ours := index.Paths[name]; !ours {
			index.Paths[name] = entry{at}
		}
	}
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	etag := strconv.Quote(fmt.Sprintf("%X", sha512.Sum512(body)))
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	w.Header().Set("Etag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	s.write(w, r, http.StatusOK, mediaJSON, body)
	return nil
}

// heldAnswer keeps an answer instead of sending it.
type heldAnswer struct {
	header http.Header
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header {
	if h.header == nil {
		h.header = http.Header{}
	}
	return h.header
}

func (h *heldAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }
func (h *heldAnswer) WriteHeader(int)             {}
