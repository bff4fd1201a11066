package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/wal"
)

func open(t *testing.T, d *disk, path string) wal.File {
	t.Helper()
	f, err := d.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, f wal.File, text string, at int64) {
	t.Helper()
	if n, err := f.WriteAt([]byte(text), at); err != nil || n != len(text) {
		t.Fatalf("%d bytes written, %v", n, err)
	}
}

// read is what the process itself sees, which is all that it has written.
func read(t *testing.T, f wal.File) string {
	t.Helper()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, size)
	if _, err := f.ReadAt(text, 0); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// left is what a process killed now would find when it starts again.
func left(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestOnlyWhatWasSyncedOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f := open(t, newDisk(), path)
	put(t, f, "one two", 0)
	if err := f.Datasync(); err != nil {
		t.Fatal(err)
	}
	put(t, f, "TWO three", 4)
	if got := read(t, f); got != "one TWO three" {
		t.Errorf("the process reads %q", got)
	}
	if got := left(t, path); got != "one two" {
		t.Errorf("%q is left, want what was synced alone", got)
	}
	if err := f.Truncate(6); err != nil {
		t.Fatal(err)
	}
	if got := read(t, f); got != "one TW" {
		t.Errorf("%q after it was cut", got)
	}
	if err := f.Datasync(); err != nil {
		t.Fatal(err)
	}
	if got := left(t, path); got != "one TW" {
		t.Errorf("%q is left after the sync", got)
	}
}

func TestFailedSyncLosesWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	d := newDisk()
	f := open(t, d, path)
	put(t, f, "lost", 0)
	if err := d.set("failing"); err != nil {
		t.Fatal(err)
	}
	if err := f.Datasync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync of a failing disk: %v", err)
	}
	if err := d.set("ok"); err != nil {
		t.Fatal(err)
	}
	if err := f.Datasync(); err != nil {
		t.Errorf("sync of a disk that is well again: %v", err)
	}
	if got := left(t, path); got != "" {
		t.Errorf("%q is left, want nothing, as after a page that the kernel has thrown away", got)
	}
}

func TestFullDiskTakesNothingMore(t *testing.T) {
	d := newDisk()
	f := open(t, d, filepath.Join(t.TempDir(), "log"))
	if err := f.Allocate(8); err != nil {
		t.Fatal(err)
	}
	if err := d.set("full"); err != nil {
		t.Fatal(err)
	}
	put(t, f, "fits in", 0)
	if _, err := f.WriteAt([]byte("does not"), 4); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write behind the end: %v", err)
	}
	if err := f.Allocate(16); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("allocate: %v", err)
	}
	if free, err := d.Free("/"); free != 0 || err != nil {
		t.Errorf("%d bytes free, %v", free, err)
	}
}

func TestHungSyncGoesOnWhenTheDiskIsWell(t *testing.T) {
	d := newDisk()
	f := open(t, d, filepath.Join(t.TempDir(), "log"))
	if err := d.set("hung"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- f.Datasync() }()
	select {
	case err := <-done:
		t.Fatalf("the sync of a hung disk ended: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := d.set("ok"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A fault that nobody feels would be a test that tests nothing.
func TestUnusedDiskHasNoFaults(t *testing.T) {
	if err := newDisk().set("hung"); err == nil {
		t.Error("a disk that nothing is kept on took a fault")
	}
}
