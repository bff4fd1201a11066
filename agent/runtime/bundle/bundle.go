// Package bundle carries the container runtime inside the muster binary:
// containerd, its shim, runc and the CNI plugins, as one compressed archive, so
// that one file is all a compute node needs. It only carries and unpacks; what
// runs them is agent/runtime/cri's business.
//
// The archive is there in binaries built with the build tag "bundle" (as `make
// build` does); without it Available is false and Unpack fails with
// ErrUnavailable, so that an ordinary `go build` and `go test` need no archive.
package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// ErrUnavailable says that this binary was built without the archive.
var ErrUnavailable = errors.New("this muster was built without a container runtime (build tag bundle); use --runtime-endpoint")

// Paths says where the unpacked programs are.
type Paths struct {
	Bin string // folder of containerd, containerd-shim-runc-v2 and runc
	CNI string // folder of the CNI plugins
}

// Available reports whether this binary carries a runtime.
func Available() bool { return len(archive) > 0 }

// Unpack makes sure that the programs are below dir and says where. They get a
// folder named by their content's hash, which appears whole by one rename and is
// never written again: a containerd and its shims keep running from their
// files while a newer muster unpacks its own beside them. Folders of other
// versions stay, because a running shim is asked to clean up by its path.
// Any number of processes may call it at the same time.
func Unpack(dir string) (Paths, error) {
	if !Available() {
		return Paths{}, ErrUnavailable
	}
	return unpack(dir, archive)
}

func unpack(dir string, archive []byte) (Paths, error) {
	sum := sha256.Sum256(archive)
	name := hex.EncodeToString(sum[:8])
	home := filepath.Join(dir, name)
	paths := Paths{Bin: filepath.Join(home, "bin"), CNI: filepath.Join(home, "cni")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Paths{}, fmt.Errorf("unpack runtime: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return Paths{}, fmt.Errorf("unpack runtime: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(home); err == nil {
		return paths, nil
	}

	// Nobody else unpacks here while we hold the lock, so what an unfinished
	// attempt left behind is nobody's.
	partial := filepath.Join(dir, ".partial")
	if err := os.RemoveAll(partial); err != nil {
		return Paths{}, fmt.Errorf("unpack runtime: %w", err)
	}
	if err := extract(partial, archive); err != nil {
		os.RemoveAll(partial) // makes room again when the disk was full
		return Paths{}, fmt.Errorf("unpack runtime into %s: %w", dir, err)
	}
	if err := os.Rename(partial, home); err != nil {
		return Paths{}, fmt.Errorf("unpack runtime: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return Paths{}, fmt.Errorf("unpack runtime: %w", err)
	}
	return paths, nil
}

// extract writes the archive's files below dir and makes them durable: after a
// power cut, a folder that has its final name has whole files.
func extract(dir string, archive []byte) error {
	decoder, err := zstd.NewReader(bytes.NewReader(archive), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return err
	}
	defer decoder.Close()
	for _, folder := range []string{dir, filepath.Join(dir, "bin"), filepath.Join(dir, "cni")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	for files := tar.NewReader(decoder); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		folder, base := path.Split(header.Name)
		if header.Typeflag != tar.TypeReg || (folder != "bin/" && folder != "cni/") || strings.HasPrefix(base, ".") || base == "" {
			return fmt.Errorf("unexpected entry %q", header.Name)
		}
		if err := writeFile(filepath.Join(dir, header.Name), files); err != nil {
			return err
		}
	}
	for _, folder := range []string{filepath.Join(dir, "bin"), filepath.Join(dir, "cni"), dir} {
		if err := syncDir(folder); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(name string, from io.Reader) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// lock waits until this process alone holds the file; the kernel lets go of it
// when the process dies.
func lock(name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		file.Close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return func() { file.Close() }, nil
}
