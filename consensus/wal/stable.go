package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"github.com/hashicorp/raft"
)

// Stable is raft's term and vote: a few keys in one file that holds them twice.
// A write makes the first copy durable and then the second, so at any moment
// one of them is whole, and a promise that was given is in both.
type Stable struct {
	disk Disk
	path string
	file File

	mu       sync.Mutex
	sequence uint64
	values   map[string][]byte
	broken   error
	closed   bool
}

var _ raft.StableStore = (*Stable)(nil)

const (
	stableName  = "promises"
	stableMagic = "musterpr"
	// A copy has a page of its own: magic, version, checksum, sequence, count,
	// then keys and values, each after its length.
	copySize   = 4096
	copyHeader = 8 + 4 + 4 + 8 + 2
)

// errKeyNotFound has the text that raft looks for.
var errKeyNotFound = errors.New("not found")

// ExistsStable says whether there is a stable store in a directory, whole or not.
func ExistsStable(disk Disk, dir string) (bool, error) {
	f, err := disk.OpenFile(filepath.Join(dir, stableName), os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// CreateStable makes an empty one, in place of any that is there.
func CreateStable(disk Disk, dir string) (*Stable, error) {
	s := &Stable{disk: disk, path: filepath.Join(dir, stableName), values: map[string][]byte{}}
	name := s.path + unfinished
	var err error
	if s.file, err = disk.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, refused(err)
	}
	err = s.file.Allocate(2 * copySize)
	if err == nil {
		err = s.save(s.values)
	}
	if err == nil {
		err = disk.Rename(name, s.path)
	}
	if err == nil {
		err = disk.SyncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(refused(err), s.file.Close())
	}
	return s, nil
}

// OpenStable reads the newer of the two copies that are whole, and repairs the
// other. A DamageError: neither is.
func OpenStable(disk Disk, dir string) (_ *Stable, err error) {
	s := &Stable{disk: disk, path: filepath.Join(dir, stableName)}
	s.file, err = disk.OpenFile(s.path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(s.path, errors.New("it is missing"))
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.file.Close()
		}
	}()
	size, err := s.file.Size()
	if err != nil {
		return nil, err
	}
	if size != 2*copySize {
		return nil, damaged(s.path, fmt.Errorf("it has %d bytes instead of %d", size, 2*copySize))
	}
	var failed error
	for i := range int64(2) {
		b := make([]byte, copySize)
		if err := readFull(s.file, b, i*copySize); err != nil {
			failed = errors.Join(failed, err) // the other one may be readable
			continue
		}
		sequence, values, err := decodeCopy(b)
		if err != nil {
			failed = errors.Join(failed, damaged(s.path, err))
		} else if s.values == nil || sequence > s.sequence {
			s.sequence, s.values = sequence, values
		}
	}
	if s.values == nil {
		return nil, failed
	}
	// Both again, whatever was found: one may be older, damaged, or not on the
	// disk after an fdatasync that failed.
	if err := s.save(s.values); err != nil {
		return nil, err
	}
	return s, nil
}

func encodeCopy(sequence uint64, values map[string][]byte) ([]byte, error) {
	b := make([]byte, copyHeader, copySize)
	copy(b, stableMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint64(b[16:], sequence)
	binary.LittleEndian.PutUint16(b[24:], uint16(len(values)))
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		for _, it := range [][]byte{[]byte(key), values[key]} {
			if len(it) > copySize {
				return nil, fmt.Errorf("%d bytes are too many for raft's promises", len(it))
			}
			b = binary.LittleEndian.AppendUint16(b, uint16(len(it)))
			b = append(b, it...)
		}
	}
	if len(b) > copySize {
		return nil, fmt.Errorf("%d bytes are too many for raft's promises: at most %d", len(b), copySize)
	}
	b = b[:copySize]
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return b, nil
}

func decodeCopy(b []byte) (sequence uint64, values map[string][]byte, err error) {
	if len(b) != copySize || string(b[:8]) != stableMagic || binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[16:], castagnoli) {
		return 0, nil, errors.New("neither copy of term and vote is what was written there")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return 0, nil, fmt.Errorf("its version is %d, this muster reads %d", v, formatVersion)
	}
	sequence = binary.LittleEndian.Uint64(b[16:])
	values = map[string][]byte{}
	count := int(binary.LittleEndian.Uint16(b[24:]))
	b = b[copyHeader:]
	next := func() []byte {
		if len(b) < 2 || int(binary.LittleEndian.Uint16(b)) > len(b)-2 {
			err = errors.New("a key or value is cut off")
			return nil
		}
		size := int(binary.LittleEndian.Uint16(b))
		it := b[2 : 2+size : 2+size]
		b = b[2+size:]
		return it
	}
	for i := 0; i < count && err == nil; i++ {
		key := next()
		values[string(key)] = next()
	}
	return sequence, values, err
}

// save writes the first copy, then the second. The caller holds mu.
func (s *Stable) save(values map[string][]byte) error {
	b, err := encodeCopy(s.sequence+1, values)
	if err != nil {
		return err
	}
	for i := range int64(2) {
		if _, err := s.file.WriteAt(b, i*copySize); full(err) {
			return noSpace(err) // only where overwriting takes new space
		} else if err != nil {
			return err
		}
		if err := s.file.Datasync(); err != nil {
			return err
		}
	}
	s.sequence++
	return nil
}

// Set is durable when it returns. ErrNoSpace: it is not, and can be tried again,
// which must be before anything else is set. After other errors nothing is
// written any more.
func (s *Stable) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return fmt.Errorf("%w: %w", ErrBroken, s.broken)
	}
	values := make(map[string][]byte, len(s.values)+1)
	for k, v := range s.values {
		values[k] = v
	}
	values[string(key)] = append([]byte(nil), value...)
	if _, err := encodeCopy(0, values); err != nil {
		return err
	}
	if err := s.save(values); err != nil {
		if !errors.Is(err, ErrNoSpace) {
			s.broken = err
		}
		return err
	}
	s.values = values
	return nil
}

// Get answers "not found" for a key that was never set, as raft expects.
func (s *Stable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[string(key)]
	if !ok {
		return nil, errKeyNotFound
	}
	return append([]byte(nil), value...), nil
}

// SetUint64 is Set.
func (s *Stable) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 is Get.
func (s *Stable) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%s holds no number", key)
	}
	return binary.BigEndian.Uint64(value), nil
}

// Empty says whether nothing was ever set.
func (s *Stable) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values) == 0
}

// Close gives the file up. All that was set is durable.
func (s *Stable) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed, s.broken = true, errors.New("it is closed")
	return s.file.Close()
}
