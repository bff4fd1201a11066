package bundle

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Programs are what an archive holds, and in which folder.
var Programs = map[string][]string{
	"bin": {"containerd", "containerd-shim-runc-v2", "runc"},
	"cni": {"bridge", "host-local", "loopback", "portmap"},
}

// Pack writes an archive of the programs found side by side in dir. The same
// programs give the same bytes, and with them the same folder name on a node.
func Pack(w io.Writer, dir string) error {
	encoder, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(encoder)
	for _, folder := range []string{"bin", "cni"} {
		for _, program := range slices.Sorted(slices.Values(Programs[folder])) {
			if err := add(archive, path.Join(folder, program), filepath.Join(dir, program)); err != nil {
				return fmt.Errorf("pack %s: %w", program, err)
			}
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return encoder.Close()
}

func add(archive *tar.Writer, name, from string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: info.Size(), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}
