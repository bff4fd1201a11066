package consensus

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// Raft checks a snapshot's state but not its meta.json, which holds who the
// members were. Here meta.json has a checksum in a file beside it. A snapshot
// without one is of an older muster, or the process ended before it was written.
const metaCheckName = "meta.crc"

func metaCheck(dir string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	return fmt.Appendf(nil, "%08x\n", crc32.ChecksumIEEE(b)), err
}

// writeMetaCheck makes the checksum of a whole snapshot durable.
func writeMetaCheck(dir string) error {
	b, err := metaCheck(dir)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, metaCheckName+temporarySuffix), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, metaCheckName))
	}
	return errors.Join(err, syncDir(dir))
}

// List leaves out snapshots whose meta.json is not what was written.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	list, err := s.SnapshotStore.List()
	var whole []*raft.SnapshotMeta
	for _, meta := range list {
		dir := filepath.Join(s.path, meta.ID)
		want, err := os.ReadFile(filepath.Join(dir, metaCheckName))
		if !errors.Is(err, fs.ErrNotExist) {
			got, failed := metaCheck(dir)
			if err != nil || failed != nil || string(got) != string(want) {
				continue
			}
		}
		whole = append(whole, meta)
	}
	return whole, err
}
