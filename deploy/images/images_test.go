package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// entries reads a tar archive.
func entries(t *testing.T, archive []byte) map[string]*tar.Header {
	t.Helper()
	found := map[string]*tar.Header{}
	for files := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[header.Name] != nil {
			t.Errorf("%s is there twice", header.Name)
		}
		found[header.Name] = header
	}
}

func content(t *testing.T, archive []byte, name string) []byte {
	t.Helper()
	for files := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := files.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if header.Name == name {
			data, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
}

var sample = &image{
	names: []string{"muster.local/sample:1", "docker.io/library/sample:latest"},
	files: []file{{name: "usr/bin/tool", mode: 0o755, data: []byte("tool")}, {name: "bin/tool", mode: 0o777, link: "/usr/bin/tool"}, {name: "tmp/", mode: 0o1777}},
	entry: []string{"/usr/bin/tool"},
}

// Follows the digests from the index down, as an importer does.
func TestArchiveLeadsFromNameToFiles(t *testing.T) {
	var archive bytes.Buffer
	if err := sample.write(&archive); err != nil {
		t.Fatal(err)
	}
	blob := func(d descriptor) []byte {
		data := content(t, archive.Bytes(), "blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:"))
		if got := "sha256:" + digestOf(data); got != d.Digest || len(data) != d.Size {
			t.Errorf("blob has digest %s and %d bytes, want %s and %d", got, len(data), d.Digest, d.Size)
		}
		return data
	}
	var index, m manifest
	if err := json.Unmarshal(content(t, archive.Bytes(), "index.json"), &index); err != nil {
		t.Fatal(err)
	}
	if got, want := len(index.Manifests), len(sample.names); got != want {
		t.Fatalf("%d manifests, want one for each of %d names", got, want)
	}
	for i, name := range sample.names {
		if got := index.Manifests[i].Annotations["io.containerd.image.name"]; got != name {
			t.Errorf("manifest is named %q, want %q", got, name)
		}
	}
	if err := json.Unmarshal(blob(index.Manifests[0]), &m); err != nil {
		t.Fatal(err)
	}
	var config imageConfig
	if err := json.Unmarshal(blob(*m.Config), &config); err != nil {
		t.Fatal(err)
	}
	if got := config.RootFS.DiffIDs; len(got) != 1 || got[0] != m.Layers[0].Digest {
		t.Errorf("diff ids are %q, want the uncompressed layer's digest %s", got, m.Layers[0].Digest)
	}
	files := entries(t, blob(m.Layers[0]))
	for _, want := range []string{"bin/", "bin/tool", "tmp/", "usr/", "usr/bin/", "usr/bin/tool"} {
		if files[want] == nil {
			t.Errorf("layer has no %s", want)
		}
	}
	if got := files["bin/tool"]; got != nil && got.Linkname != "/usr/bin/tool" {
		t.Errorf("bin/tool leads to %q, want /usr/bin/tool", got.Linkname)
	}
	if got := files["tmp/"]; got != nil && got.Mode != 0o1777 {
		t.Errorf("tmp has mode %o, want 1777", got.Mode)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	var one, two bytes.Buffer
	if err := errors.Join(sample.write(&one), sample.write(&two)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("the same image gave different bytes")
	}
	layer, err := sample.layer()
	if err != nil {
		t.Fatal(err)
	}
	for name, header := range entries(t, layer) {
		if header.ModTime.Unix() != 0 {
			t.Errorf("%s has the time %v in it", name, header.ModTime)
		}
	}
}

func TestLayerRefusesFilesOutsideTheRoot(t *testing.T) {
	for _, name := range []string{"/etc/passwd", "../etc/passwd"} {
		img := &image{names: []string{"x"}, files: []file{{name: name}}}
		if _, err := img.layer(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestBusyboxMustBeStatic(t *testing.T) {
	if _, err := busyboxImage(filepath.Join(t.TempDir(), "busybox")); err == nil || !strings.Contains(err.Error(), "busybox-static") {
		t.Errorf("a missing busybox gives %v, want what to install", err)
	}
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash to refuse")
	}
	if _, err := busyboxImage(shell); err == nil || !strings.Contains(err.Error(), "not static") {
		t.Errorf("bash as busybox gives %v, want that it is not static", err)
	}
}

func TestBusyboxImageHasAShell(t *testing.T) {
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs busybox-static:", err)
	}
	img, err := busyboxImage("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	layer, err := img.layer()
	if err != nil {
		t.Fatal(err)
	}
	files := entries(t, layer)
	for _, want := range []string{"bin/sh", "usr/bin/wget", "bin/cat", "bin/sleep"} {
		if files[want] == nil || files[want].Linkname != "/bin/busybox" {
			t.Errorf("%s is %+v, want a link to busybox", want, files[want])
		}
	}
}

func TestPauseAndHelloAreReproducible(t *testing.T) {
	for _, name := range []string{"pause", "hello"} {
		one, err := goImage(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkStatic(one.files[0].data); err != nil {
			t.Errorf("%s %v", name, err)
		}
		two, err := goImage(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one.files[0].data, two.files[0].data) {
			t.Errorf("building %s twice gave different bytes", name)
		}
		if here, err := os.Getwd(); err == nil && bytes.Contains(one.files[0].data, []byte(here)) {
			t.Errorf("%s has the path of this clone in it", name)
		}
	}
}
