package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing/fstest"
)

// errCrashed is what every call answers from the crash on.
var errCrashed = errors.New("the machine is gone")

// memDisk is a disk with a page cache: reads see what was written, a crash keeps
// of each sector that was not synced either the old or the new. Calls that
// change something are counted, and one of them can fail.
type memDisk struct {
	mu      sync.Mutex
	names   map[string]*memFile
	onDisk  map[string]*memFile // names as of the last SyncDir
	pending []func(map[string]*memFile)
	space   int64 // left for Allocate; negative: no bound

	calls  int
	failAt int // number of the call that fails, from 1; 0: none
	fail   func(call string, f *memFile, b []byte, at int64) error
	failed string // what failed
	gone   bool
}

type memFile struct {
	disk   *memDisk
	data   []byte
	onDisk []byte
	dirty  map[int64]bool // sectors written since the last sync
}

func newMemDisk() *memDisk {
	return &memDisk{names: map[string]*memFile{}, onDisk: map[string]*memFile{}, space: -1}
}

// call counts a call that changes something.
func (d *memDisk) call(what string, f *memFile, b []byte, at int64) error {
	if d.gone {
		return errCrashed
	}
	d.calls++
	if d.calls == d.failAt && d.fail != nil {
		d.failed = what
		err := d.fail(what, f, b, at)
		d.gone = d.gone || errors.Is(err, errCrashed)
		return err
	}
	return nil
}

func (d *memDisk) OpenFile(name string, flag int, _ fs.FileMode) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil && flag&os.O_CREATE == 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if f == nil || flag&os.O_TRUNC != 0 {
		if err := d.call("create "+name, nil, nil, 0); err != nil {
			return nil, err
		}
		f = &memFile{disk: d, dirty: map[int64]bool{}}
		d.change(func(names map[string]*memFile) { names[name] = f })
	}
	if d.gone {
		return nil, errCrashed
	}
	return f, nil
}

func (d *memDisk) change(c func(map[string]*memFile)) {
	c(d.names)
	d.pending = append(d.pending, c)
}

func (d *memDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.call("rename "+to, nil, nil, 0); err != nil {
		return err
	}
	f := d.names[from]
	if f == nil {
		return fs.ErrNotExist
	}
	d.change(func(names map[string]*memFile) { delete(names, from); names[to] = f })
	return nil
}

func (d *memDisk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.call("remove "+name, nil, nil, 0); err != nil {
		return err
	}
	f := d.names[name]
	if f == nil {
		return fs.ErrNotExist
	}
	if d.space >= 0 {
		d.space += int64(len(f.data))
	}
	d.change(func(names map[string]*memFile) { delete(names, name) })
	return nil
}

func (d *memDisk) ReadDir(string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return nil, errCrashed
	}
	all := fstest.MapFS{}
	for name := range d.names {
		all[filepath.Base(name)] = &fstest.MapFile{}
	}
	return all.ReadDir(".")
}

func (d *memDisk) SyncDir(string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.call("syncdir", nil, nil, 0); err != nil {
		return err
	}
	for _, c := range d.pending {
		c(d.onDisk)
	}
	d.pending = nil
	return nil
}

func (d *memDisk) Free(string) (uint64, error) { return uint64(max(d.space, 0)), nil }

func (f *memFile) ReadAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.gone {
		return 0, errCrashed
	}
	if at >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.call("write", f, b, at); err != nil {
		return 0, err
	}
	f.put(b, at)
	return len(b), nil
}

func (f *memFile) put(b []byte, at int64) {
	if at%sectorSize != 0 || len(b)%sectorSize != 0 {
		panic(fmt.Sprintf("%d bytes at %d are not whole sectors", len(b), at))
	}
	if grow := at + int64(len(b)) - int64(len(f.data)); grow > 0 {
		panic("a write beyond what was allocated")
	}
	copy(f.data[at:], b)
	for s := at / sectorSize; s < (at+int64(len(b)))/sectorSize; s++ {
		f.dirty[s] = true
	}
}

func (f *memFile) Datasync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.call("datasync", f, nil, 0); err != nil {
		if !errors.Is(err, errCrashed) {
			clear(f.dirty) // as Linux does: the pages count as clean and are not written again
		}
		return err
	}
	f.extend()
	for s := range f.dirty {
		copy(f.onDisk[s*sectorSize:], f.data[s*sectorSize:(s+1)*sectorSize])
	}
	clear(f.dirty)
	return nil
}

func (f *memFile) extend() {
	if more := len(f.data) - len(f.onDisk); more > 0 {
		f.onDisk = append(f.onDisk, make([]byte, more)...)
	}
}

func (f *memFile) Allocate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.call("allocate", f, nil, 0); err != nil {
		return err
	}
	more := size - int64(len(f.data))
	if more <= 0 {
		return nil
	}
	if f.disk.space >= 0 {
		if more > f.disk.space {
			return syscall.ENOSPC
		}
		f.disk.space -= more
	}
	f.data = append(f.data, make([]byte, more)...)
	return nil
}

func (f *memFile) Truncate(int64) error { panic("not used") }

func (f *memFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.data)), nil
}

func (f *memFile) Close() error { return nil }

// reboot is the disk after a crash: of what was not synced, keep says what is there.
func (d *memDisk) reboot(keep func() bool) *memDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	now := newMemDisk()
	now.space = d.space
	for _, c := range d.pending { // a journal keeps the order
		if !keep() {
			break
		}
		c(d.onDisk)
	}
	names := make([]string, 0, len(d.onDisk))
	for name := range d.onDisk {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := d.onDisk[name]
		f.extend()
		var dirty []int64
		for s := range f.dirty {
			dirty = append(dirty, s)
		}
		slices.Sort(dirty)
		data := slices.Clone(f.onDisk)
		for _, s := range dirty {
			if keep() {
				copy(data[s*sectorSize:], f.data[s*sectorSize:(s+1)*sectorSize])
			}
		}
		n := &memFile{disk: now, data: data, onDisk: slices.Clone(data), dirty: map[int64]bool{}}
		now.names[name], now.onDisk[name] = n, n
	}
	return now
}

// restart is the disk for the next process of the same machine.
func (d *memDisk) restart() *memDisk {
	d.failAt, d.fail, d.gone = 0, nil, false
	return d
}

func always(v bool) func() bool { return func() bool { return v } }
func sometimes(r *rand.Rand) func() bool {
	return func() bool { return r.Intn(2) == 0 }
}

// crash tears the call under way, which may have done anything of what it was to do.
func crash(r *rand.Rand) func(string, *memFile, []byte, int64) error {
	return func(what string, f *memFile, b []byte, at int64) error {
		if what == "write" {
			for ; len(b) >= sectorSize; b, at = b[sectorSize:], at+sectorSize {
				if r.Intn(2) == 0 {
					f.put(b[:sectorSize], at)
				}
			}
		}
		return errCrashed
	}
}

// refuse fails the call with an error; a write may have been done in part.
func refuse(r *rand.Rand, err error) func(string, *memFile, []byte, int64) error {
	return func(what string, f *memFile, b []byte, at int64) error {
		if what == "write" {
			for ; len(b) >= sectorSize; b, at = b[sectorSize:], at+sectorSize {
				if r.Intn(2) == 0 {
					f.put(b[:sectorSize], at)
				}
			}
		}
		return err
	}
}

func (d *memDisk) String() string {
	var names []string
	for name, f := range d.names {
		names = append(names, fmt.Sprintf("%s:%d", filepath.Base(name), len(f.data)))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
