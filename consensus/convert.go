package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// A directory of format 1 has log, term and vote in log.db, a file of bolt. It
// is converted when it is opened: the new files are made and durable first,
// then node.json says format 2, then log.db goes. A conversion that was
// interrupted before that is begun again, after it only log.db is left to
// remove. An older muster refuses format 2.

func (d *dir) boltPath() string { return filepath.Join(d.path, "log.db") }

// boltKeys are all that raft keeps in its stable store.
var boltKeys = []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"}

const (
	convertEntries = 64 // at once
	convertBytes   = 1 << 20
)

func (d *dir) convert() (err error) {
	bolt, err := openBolt(d.boltPath())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bolt.Close()) }()
	if err := d.newLog(); err != nil {
		return err
	}
	if err := d.copyBolt(bolt); err != nil {
		return err
	}
	d.node.Format = dirFormat
	if err := d.writeNode(); err != nil {
		return err
	}
	return errors.Join(os.Remove(d.boltPath()), syncDir(d.path))
}

func (d *dir) copyBolt(bolt *raftboltdb.BoltStore) error {
	var first, last uint64
	err := guarded(d.boltPath(), func() (err error) {
		if first, err = bolt.FirstIndex(); err == nil {
			last, err = bolt.LastIndex()
		}
		return err
	})
	if err != nil {
		return err
	}
	var entries []*raft.Log
	bytes := 0
	flush := func() error {
		if len(entries) == 0 {
			return nil
		}
		err := d.log.StoreLogs(entries)
		entries, bytes = nil, 0
		return err
	}
	for index := first; index != 0 && index <= last; index++ {
		e := new(raft.Log)
		missing := false
		err := guarded(d.boltPath(), func() error {
			err := bolt.GetLog(index, e)
			if missing = errors.Is(err, raft.ErrLogNotFound); missing {
				return nil
			}
			if err == nil && e.Index != index {
				err = fmt.Errorf("entry %d says it is entry %d", index, e.Index)
			}
			if err == nil && e.Type == raft.LogCommand {
				err = checkEnvelope(e.Data)
			}
			if err != nil {
				err = fmt.Errorf("log entry %d: %w", index, err)
			}
			return err
		})
		if err != nil {
			return err
		}
		if missing {
			// As after a snapshot that replaced the log: what is before the gap is
			// dropped, and a snapshot must cover it, which is looked at later.
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		entries = append(entries, e)
		if bytes += len(e.Data); len(entries) >= convertEntries || bytes >= convertBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	for _, key := range boltKeys {
		var value []byte
		err := guarded(d.boltPath(), func() (err error) {
			if value, err = bolt.Get([]byte(key)); errors.Is(err, raftboltdb.ErrKeyNotFound) {
				value, err = nil, nil
			}
			return err
		})
		if err == nil && value != nil {
			err = d.stable.Set([]byte(key), value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkUnusedBolt refuses log.db with entries where node.json is missing. An
// empty one is what an older muster leaves that ended during its first start.
func (d *dir) checkUnusedBolt(lost func(path string) error) error {
	path := d.boltPath()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Size() > 0 {
		bolt, err := openBolt(path)
		if err != nil {
			return err
		}
		var last uint64
		err = guarded(path, func() (err error) { last, err = bolt.LastIndex(); return err })
		if err = errors.Join(err, bolt.Close()); err != nil {
			return err
		}
		if last > 0 {
			return lost(path)
		}
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// openBolt opens log.db for reading.
func openBolt(path string) (store *raftboltdb.BoltStore, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, damaged(path, errors.New("it is missing"))
	case err != nil:
		return nil, diskError(path, err)
	case info.Size() == 0:
		return nil, damaged(path, errors.New("it is empty"))
	}
	file := &boltFile{}
	err = guarded(path, func() error { return walkBolt(path, info.Size(), file) })
	if err == nil {
		err = guarded(path, func() (err error) {
			store, err = raftboltdb.New(raftboltdb.Options{
				Path: path, BoltOptions: &bbolt.Options{Timeout: time.Second, OpenFile: file.open, ReadOnly: true},
			})
			return err
		})
	}
	if err != nil {
		file.close()
		return nil, err
	}
	return store, nil
}

// walkBolt visits every page of a bolt file: bolt does some of that in
// goroutines of its own, where a damaged page would end the process.
func walkBolt(path string, size int64, file *boltFile) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second, OpenFile: file.open})
	if err != nil {
		return err
	}
	return errors.Join(db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > size {
			return fmt.Errorf("%d of %d bytes are left", size, tx.Size())
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	}), db.Close())
}

// boltFile remembers the file that bolt opens, and locks, because bolt leaves it
// open when it panics.
type boltFile struct{ file *os.File }

func (b *boltFile) open(path string, flag int, mode os.FileMode) (*os.File, error) {
	var err error
	b.file, err = os.OpenFile(path, flag, mode)
	return b.file, err
}

func (b *boltFile) close() {
	if b.file != nil { // often closed already
		_ = unix.Flock(int(b.file.Fd()), unix.LOCK_UN) // the mapping, which stays, would keep the lock
		_ = b.file.Close()
	}
}
