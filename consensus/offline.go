package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// What is done to a directory that no node runs on.

// Offline says which directory, and what to read its state into.
type Offline struct {
	Dir string
	// StateMachine is empty before. For Seed it holds the state; for Recover it
	// is filled with what the directory has.
	StateMachine StateMachine
	Logger       *slog.Logger
}

// ErrNothingToRecover says that a node leads alone already, or would as soon as it is started.
var ErrNothingToRecover = errors.New("this node is a cluster of its own already: start it")

// Seed makes a fresh directory that of a cluster's only node, whose state is
// that of the state machine. It is not safe against a crash: until it has
// returned the directory must not be used.
func Seed(o Offline, clusterID, name, address string) error {
	d, err := openDir(o.config(clusterID, name))
	if err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	defer d.close()
	f, err := o.open(d)
	if err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	used, err := raft.HasExistingState(f.log, f.stable, f.snapshots)
	if err == nil && used {
		err = fmt.Errorf("%s is used already", d.path)
	}
	if err == nil {
		err = f.stable.SetUint64([]byte("CurrentTerm"), 1) // as raft's own bootstrap
	}
	if err == nil {
		f.machine.index, f.machine.term = 1, 1
		err = f.cover(1, 1, raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(address)})
	}
	if err == nil {
		d.node.Joined = true
		err = d.writeNode()
	}
	if err != nil {
		return fmt.Errorf("consensus: %w", diskError(d.path, err))
	}
	return nil
}

// Recovery is what a directory holds, and what making it a cluster of its own means.
type Recovery struct {
	Cluster, Name, Address string
	// Term is the newest that the node has heard of. LastIndex and LastTerm are
	// of its newest entry.
	Term, LastIndex, LastTerm uint64
	// SnapshotIndex is the newest entry in the snapshot. The entries after it
	// need not all have been committed; afterwards they are.
	SnapshotIndex uint64
	// LastWritten is when the log was last written to.
	LastWritten time.Time
	// Dropped are the members that will not be any more.
	Dropped []Server
	// Voter: the node was one. What the others decided may have passed by one that was not.
	Voter bool
}

// Recover makes the node of a directory a cluster of its own, with all that its
// log holds, if do is set; else it only says what it would do. It refuses a
// directory that is in use or damaged, and one without others to drop.
//
// A crash meanwhile does no harm: the snapshot with the new configuration is
// whole before the log that it replaces is removed, and raft takes no
// configuration from entries that a snapshot covers.
func Recover(o Offline, do bool) (*Recovery, error) {
	r, err := o.recover(do)
	if err != nil && !errors.Is(err, ErrNothingToRecover) {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	return r, err
}

func (o Offline) recover(do bool) (*Recovery, error) {
	path := filepath.Join(o.Dir, "raft", "node.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no control node: there is no %s", o.Dir, path)
	}
	if err != nil {
		return nil, diskError(path, err)
	}
	var node nodeFile
	if err := json.Unmarshal(text, &node); err != nil || node.Cluster == "" {
		return nil, damaged(path, errors.New("not what muster wrote there"))
	}
	written := newestChange(filepath.Dir(path))
	d, err := openDir(o.config(node.Cluster, node.Name))
	if err != nil {
		return nil, err
	}
	defer d.close()
	if !d.node.Joined {
		return nil, fmt.Errorf("%s is of a node that was never taken into the cluster: it holds nothing to recover", d.path)
	}
	f, err := o.open(d)
	if err != nil {
		return nil, err
	}
	r := &Recovery{Cluster: node.Cluster, Name: node.Name, LastWritten: written}
	var members raft.Configuration
	if err := guarded(d.path, func() (err error) {
		members, err = f.replay(r)
		return err
	}); err != nil {
		return nil, err
	}
	var self *raft.Server
	for _, m := range members.Servers {
		if string(m.ID) == node.Name {
			self, r.Address, r.Voter = &m, string(m.Address), m.Suffrage == raft.Voter
		} else {
			r.Dropped = append(r.Dropped, Server{Name: string(m.ID), Address: string(m.Address), Voter: m.Suffrage == raft.Voter})
		}
	}
	if self == nil {
		return nil, fmt.Errorf("%s was removed from its cluster, so others went on without it: recover one of those", node.Name)
	}
	if len(r.Dropped) == 0 {
		return r, ErrNothingToRecover
	}
	if !do {
		return r, nil
	}
	return r, diskError(d.path, f.cover(r.LastIndex, r.LastTerm, *self))
}

func (o Offline) config(clusterID, name string) Config {
	return Config{Name: name, ClusterID: clusterID, Dir: o.Dir, Logger: o.Logger}
}

// files is an open directory without a node.
type files struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots *snapshotStore
	machine   *machine
	failed    error // of machine
}

func (o Offline) open(d *dir) (*files, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &files{}
	f.log, f.stable = d.stores()
	var err error
	if f.snapshots, err = openSnapshots(d.path, newRaftLogger(o.Logger)); err != nil {
		return nil, err
	}
	f.machine = &machine{
		sm: o.StateMachine, pending: newPending(), progress: newProgress(),
		fail: func(err error) { f.failed = err },
	}
	return f, nil
}

// replay reads all that there is into the machine and returns the newest configuration.
func (f *files) replay(r *Recovery) (members raft.Configuration, err error) {
	if r.Term, err = f.stable.GetUint64([]byte("CurrentTerm")); err != nil {
		return members, err
	}
	first, err := f.log.FirstIndex()
	if err != nil {
		return members, err
	}
	last, err := f.log.LastIndex()
	if err != nil {
		return members, err
	}
	list, err := f.snapshots.List()
	if err != nil {
		return members, err
	}
	var unreadable []error
	for _, s := range list {
		_, source, err := f.snapshots.Open(s.ID)
		if err == nil {
			err = errors.Join(f.machine.Restore(source), source.Close())
		}
		if err != nil {
			unreadable = append(unreadable, fmt.Errorf("snapshot %s: %w", s.ID, err))
			continue
		}
		r.SnapshotIndex, r.LastIndex, r.LastTerm, members = s.Index, s.Index, s.Term, s.Configuration
		break
	}
	if last > r.LastIndex && first > r.LastIndex+1 || last <= r.LastIndex && len(unreadable) > 0 || r.LastIndex == 0 && last == 0 {
		return members, damaged(f.snapshots.path, errors.Join(append(unreadable,
			fmt.Errorf("the log is of entries %d to %d, and the newest snapshot that can be read reaches to %d", first, last, r.LastIndex))...))
	}
	for index := r.LastIndex + 1; index <= last; index++ {
		entry := &raft.Log{}
		if err := f.log.GetLog(index, entry); err != nil {
			return members, fmt.Errorf("log entry %d: %w", index, err)
		}
		switch entry.Type {
		case raft.LogCommand:
			if f.machine.Apply(entry); f.failed != nil {
				return members, f.failed
			}
		case raft.LogConfiguration:
			members = raft.DecodeConfiguration(entry.Data)
		}
		if r.LastIndex, r.LastTerm = index, entry.Term; !entry.AppendedAt.IsZero() {
			r.LastWritten = entry.AppendedAt
		}
	}
	return members, nil
}

// cover writes a snapshot of what the machine has, as of the entry at index,
// with one voter, and then removes the log that it covers.
func (f *files) cover(index, term uint64, voter raft.Server) error {
	voter.Suffrage = raft.Voter
	snapshot, err := f.machine.Snapshot()
	if err != nil {
		return err
	}
	_, encoder := raft.NewInmemTransport("")
	sink, err := f.snapshots.Create(raft.SnapshotVersionMax, index, term, raft.Configuration{Servers: []raft.Server{voter}}, 1, encoder)
	if err != nil {
		return err
	}
	if err := snapshot.Persist(sink); err != nil {
		return err
	}
	first, err := f.log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := f.log.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	return f.log.DeleteRange(first, last)
}

// newestChange is when anything in a directory was last written.
func newestChange(dir string) (newest time.Time) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == "lock" || e.Name() == "probe.tmp" {
			return nil
		}
		if info, err := e.Info(); err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return nil
	})
	return newest
}

// stores are the directory's log and stable store.
func (d *dir) stores() (raft.LogStore, raft.StableStore) { return d.log, d.stable }
