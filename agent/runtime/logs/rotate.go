package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Limits bound what one container's logs take on disk.
type Limits struct {
	FileBytes int64 // a bigger file is put aside
	Files     int   // with the one being written
}

// DefaultLimits are kubelet's.
var DefaultLimits = Limits{FileBytes: 10 << 20, Files: 5}

// Rotate puts the log at path aside when it is too big, lets reopen make the
// runtime write a new one, and removes the oldest of those put aside.
func Rotate(path string, limits Limits, now time.Time, reopen func() error) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info.Size() < limits.FileBytes {
		return nil
	}
	aside := path + "." + now.UTC().Format("20060102-150405.000")
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := reopen(); err != nil {
		// The runtime still writes to the file it has open: give its name back.
		return errors.Join(fmt.Errorf("reopen log %s: %w", path, err), os.Rename(aside, path))
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old) // by time, which is the name
	for len(old) > max(limits.Files-1, 0) {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		old = old[1:]
	}
	return nil
}
