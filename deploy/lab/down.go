package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Down removes every trace of the lab: processes, mounts, namespaces, the
// interface, cgroups and the folder. It works on whatever is there, also after
// an Up that failed half way, and is no error when nothing is.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := exclusive(ctx, l.Name)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	cgroups := map[string]bool{}
	for _, h := range l.Hosts {
		h.collectCgroups(cgroups)
		errs = append(errs, h.Kill(ctx))
	}
	// With the last mount namespace go the mounts that were made in it.
	for _, h := range l.Hosts {
		errs = append(errs, unpin(h.mntnsFile()))
	}
	errs = append(errs, unpin(l.pinDir()))
	for _, point := range mountsBelow(l.Dir) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			errs = append(errs, &fs.PathError{Op: "unmount", Path: point, Err: err})
		}
	}
	errs = append(errs, l.removeNetwork(ctx), removeCgroups(ctx, cgroups))
	if !otherLabs() {
		for _, h := range l.Of(Compute) {
			pruneCgroups(filepath.Join(agentCgroup, h.Name))
		}
		pruneCgroups(agentCgroup)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the lab in %s is not wholly down: %w", l.Dir, err)
	}
	return l.removeDir(ctx)
}

// removeDir removes the lab's folder, last, so that a Down that fails can be
// repeated with all it needs to know.
func (l *Lab) removeDir(ctx context.Context) error {
	if _, err := os.Stat(l.settingsFile()); errors.Is(err, fs.ErrNotExist) {
		// Not a lab's folder, or an empty one.
		if err := os.Remove(l.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is no lab's folder: %w", l.Dir, err)
		}
		return nil
	}
	for {
		// A namespace that is on its way out may hold a folder for a moment.
		err := os.RemoveAll(l.Dir)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
