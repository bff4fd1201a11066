package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// packed returns an archive of small stand-ins; mark makes its content unique.
func packed(t *testing.T, mark string) []byte {
	t.Helper()
	dir := t.TempDir()
	for _, programs := range Programs {
		for _, program := range programs {
			script := "#!/bin/sh\necho " + mark + " " + program + "\n"
			if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var archive bytes.Buffer
	if err := Pack(&archive, dir); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func TestUnpackGivesEveryProgram(t *testing.T) {
	paths, err := unpack(t.TempDir(), packed(t, "one"))
	if err != nil {
		t.Fatal(err)
	}
	for folder, dir := range map[string]string{"bin": paths.Bin, "cni": paths.CNI} {
		for _, program := range Programs[folder] {
			info, err := os.Stat(filepath.Join(dir, program))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := info.Mode().Perm(), os.FileMode(0o755); got&0o111 != want&0o111 {
				t.Errorf("%s has mode %v, want it executable", program, got)
			}
			got, err := os.ReadFile(filepath.Join(dir, program))
			if err != nil {
				t.Fatal(err)
			}
			if want := "#!/bin/sh\necho one " + program + "\n"; string(got) != want {
				t.Errorf("%s is %q, want %q", program, got, want)
			}
		}
	}
}

// A running containerd holds its files: unpacking again must not replace them,
// and another version must not touch them.
func TestUnpackLeavesFilesInUseAlone(t *testing.T) {
	dir := t.TempDir()
	one, two := packed(t, "one"), packed(t, "two")
	first, err := unpack(dir, one)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(first.Bin, "containerd"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := unpack(dir, one)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unpack(dir, two)
	if err != nil {
		t.Fatal(err)
	}
	if again != first {
		t.Errorf("unpacked again to %v, want %v", again, first)
	}
	if other == first {
		t.Errorf("another version unpacked to %v as well", other)
	}
	after, err := os.Stat(filepath.Join(first.Bin, "containerd"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("containerd's file was written again")
	}
}

func TestUnpackStartsOverAfterAnInterruption(t *testing.T) {
	dir := t.TempDir()
	partial := filepath.Join(dir, ".partial", "bin")
	if err := os.MkdirAll(partial, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(partial, "containerd"), []byte("half"), 0o755); err != nil {
		t.Fatal(err)
	}
	paths, err := unpack(dir, packed(t, "one"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(paths.Bin, "containerd"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "#!/bin/sh\necho one containerd\n"; string(got) != want {
		t.Errorf("containerd is %q, want %q", got, want)
	}
}

func TestUnpackTogetherAgrees(t *testing.T) {
	dir, archive := t.TempDir(), packed(t, "one")
	var group sync.WaitGroup
	var got [8]Paths
	for i := range got {
		group.Go(func() {
			paths, err := unpack(dir, archive)
			if err != nil {
				t.Error(err)
			}
			got[i] = paths
		})
	}
	group.Wait()
	for _, paths := range got[1:] {
		if paths != got[0] {
			t.Errorf("unpacked to %v and to %v", paths, got[0])
		}
	}
}

func TestUnpackRefusesWhatIsNoBundle(t *testing.T) {
	archiveOf := func(header *tar.Header, content string) []byte {
		var b bytes.Buffer
		encoder, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		files := tar.NewWriter(encoder)
		header.Size = int64(len(content))
		if err := errors.Join(files.WriteHeader(header), func() error { _, err := files.Write([]byte(content)); return err }(), files.Close(), encoder.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	whole := packed(t, "one")
	for name, archive := range map[string][]byte{
		"outside the folder": archiveOf(&tar.Header{Name: "bin/../../escape", Typeflag: tar.TypeReg}, "x"),
		"a link":             archiveOf(&tar.Header{Name: "bin/runc", Typeflag: tar.TypeSymlink, Linkname: "/bin/sh"}, ""),
		"cut short":          whole[:len(whole)-20],
		"not zstd":           []byte("hello"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if paths, err := unpack(dir, archive); err == nil {
				t.Fatalf("unpacked to %v, want an error", paths)
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range left {
				if entry.Name() != ".lock" {
					t.Errorf("left %s behind", entry.Name())
				}
			}
		})
	}
}

func TestPackIsReproducible(t *testing.T) {
	if !bytes.Equal(packed(t, "one"), packed(t, "one")) {
		t.Error("the same programs gave different archives")
	}
}

func TestUnpackWithoutArchiveSaysSo(t *testing.T) {
	if Available() {
		t.Skip("built with the archive")
	}
	if _, err := Unpack(t.TempDir()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want %v", err, ErrUnavailable)
	}
}
