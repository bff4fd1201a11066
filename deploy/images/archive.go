package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"
)

// image is a container image of one layer.
type image struct {
	names []string // full references, as "muster.local/hello:1"; the first is its own
	files []file
	env   []string
	entry []string // ENTRYPOINT
	cmd   []string // CMD
	ports []string // as "8080/tcp"
}

// file is an entry of an image's layer: a folder when its name ends in a
// slash, a link when link is set.
type file struct {
	name string
	mode int64
	data []byte
	link string
}

// Media types of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	// Not compressed: what is imported on the same machine is faster to unpack so.
	typeLayer = "application/vnd.oci.image.layer.v1.tar"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
}

type imageConfig struct {
	Created string `json:"created"`
	platform
	Config struct {
		Env          []string            `json:"Env,omitempty"`
		Entrypoint   []string            `json:"Entrypoint,omitempty"`
		Cmd          []string            `json:"Cmd,omitempty"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// write writes the image as an OCI image layout in a tar archive, the form that
// containerd imports. The same image gives the same bytes.
func (img *image) write(w io.Writer) error {
	blobs := map[string][]byte{}
	put := func(mediaType string, data []byte) descriptor {
		digest := digestOf(data)
		blobs["blobs/sha256/"+digest] = data
		return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}
	}
	layer, err := img.layer()
	if err != nil {
		return err
	}
	layerAt := put(typeLayer, layer)

	config := imageConfig{Created: "1970-01-01T00:00:00Z", platform: platform{runtime.GOARCH, "linux"}}
	config.Config.Env, config.Config.Entrypoint, config.Config.Cmd = img.env, img.entry, img.cmd
	for _, port := range img.ports {
		if config.Config.ExposedPorts == nil {
			config.Config.ExposedPorts = map[string]struct{}{}
		}
		config.Config.ExposedPorts[port] = struct{}{}
	}
	config.RootFS.Type, config.RootFS.DiffIDs = "layers", []string{layerAt.Digest}
	configAt := put(typeConfig, encode(config))
	manifestAt := put(typeManifest, encode(manifest{SchemaVersion: 2, MediaType: typeManifest, Config: &configAt, Layers: []descriptor{layerAt}}))
	manifestAt.Platform = &config.platform

	index := manifest{SchemaVersion: 2, MediaType: typeIndex}
	for _, name := range img.names {
		named := manifestAt
		named.Annotations = map[string]string{
			"io.containerd.image.name":          name,
			"org.opencontainers.image.ref.name": name[strings.LastIndex(name, ":")+1:],
		}
		index.Manifests = append(index.Manifests, named)
	}
	entries := []file{
		{name: "oci-layout", mode: 0o644, data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", mode: 0o644, data: encode(index)},
		{name: "blobs/", mode: 0o755},
		{name: "blobs/sha256/", mode: 0o755},
	}
	for _, name := range sortedKeys(blobs) {
		entries = append(entries, file{name: name, mode: 0o644, data: blobs[name]})
	}
	return writeTar(w, entries)
}

// layer is the image's root as a tar, with the folders its files are in.
func (img *image) layer() ([]byte, error) {
	entries, listed := map[string]file{}, map[string]bool{}
	for _, f := range img.files {
		if path.IsAbs(f.name) || strings.Contains(f.name, "..") {
			return nil, fmt.Errorf("%s: file %q is not below the root", img.names[0], f.name)
		}
		if listed[f.name] {
			return nil, fmt.Errorf("%s: file %q is there twice", img.names[0], f.name)
		}
		entries[f.name], listed[f.name] = f, true
		for dir := path.Dir(strings.TrimSuffix(f.name, "/")); dir != "."; dir = path.Dir(dir) {
			if _, known := entries[dir+"/"]; !known {
				entries[dir+"/"] = file{name: dir + "/", mode: 0o755}
			}
		}
	}
	var sorted []file
	for _, name := range sortedKeys(entries) { // a folder sorts before what is in it
		sorted = append(sorted, entries[name])
	}
	var layer bytes.Buffer
	err := writeTar(&layer, sorted)
	return layer.Bytes(), err
}

func writeTar(w io.Writer, files []file) error {
	archive := tar.NewWriter(w)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
		switch {
		case f.link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.link
		case strings.HasSuffix(f.name, "/"):
			header.Typeflag = tar.TypeDir
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(f.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // only plain values come here
	}
	return data
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
