package autopilot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/store"
)

const removedPrefix = "removed/"

// removal says that a control node was taken out, so that it stays out. It is
// kept for good: the machine may come back years later.
type removal struct {
	// Keys are the SHA-256 of public keys that nodes of this name had when they
	// were removed, the latest keysMax.
	Keys [][]byte `json:"keys,omitempty"`
	At   int64    `json:"at"` // Unix seconds
	By   string   `json:"by"` // how it came, to be read after "removed by"
}

const keysMax = 16

// Admit says whether a server may be a member (consensus.Config). It is asked on
// the leader, whose replica is current. A no ends the server, so the leader
// makes sure before that it still is one.
func (a *Autopilot) Admit(ctx context.Context, c consensus.Candidate) error {
	err := a.admit(c)
	if err == nil {
		return nil
	}
	if err := a.Store.ReadBarrier(ctx); err != nil {
		return err
	}
	return a.admit(c)
}

func (a *Autopilot) admit(c consensus.Candidate) error {
	if format := a.Store.Format(); c.Format != 0 && c.Format < format {
		return fmt.Errorf("%w: the cluster writes commands of format %d, and the muster on %s reads up to %d: start the newer version that the other control nodes run",
			consensus.ErrRefused, format, c.Name, c.Format)
	}
	if c.Member && !c.Moved || len(c.Key) == 0 && c.Format == 0 {
		return nil // it is in, or an administrator says so
	}
	r, _, err := a.removal(c.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !has(r.Keys, c.Key) && (c.Member || a.holds(c.Name, c.Key)) {
		return nil // another machine, which joined with a token since
	}
	return fmt.Errorf("%w: %s was removed on %s by %s; to have it again, move its data directory away and join anew with a token, or run: muster operator raft add-peer %s %s",
		consensus.ErrRefused, c.Name, time.Unix(r.At, 0).UTC().Format("2006-01-02 15:04:05 MST"), r.By, c.Name, c.Address)
}

func has(keys [][]byte, key []byte) bool {
	for _, k := range keys {
		if len(key) > 0 && bytes.Equal(k, key) {
			return true
		}
	}
	return false
}

// holds says whether the machine with this key has the name from a token.
func (a *Autopilot) holds(name string, key []byte) bool {
	for _, k := range a.Keys(name) {
		if bytes.Equal(k[:], key) {
			return true
		}
	}
	return false
}

func (a *Autopilot) removal(name string) (r removal, revision uint64, err error) {
	value, revision, err := a.Store.System().Get(removedPrefix + name)
	if err != nil {
		return r, 0, err
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, revision, fmt.Errorf("record muster/%s%s: %w", removedPrefix, name, err)
	}
	return r, revision, nil
}

// Removed says whether a control node of this name was removed and is not a
// member since.
func (a *Autopilot) Removed(name string) bool {
	for _, s := range a.Node.Status().Servers {
		if s.Name == name {
			return false
		}
	}
	_, _, err := a.removal(name)
	return err == nil
}

// Remove takes a control node out and keeps it out, on an operator's word.
// Leader only.
func (a *Autopilot) Remove(ctx context.Context, name string) error {
	return a.remove(ctx, a.Store, name, "muster operator raft remove-peer")
}

// remove writes first that the node is to stay out: a member of which that is
// written is none the worse for it, while one that was removed and of which
// nothing is written would be let in again.
func (a *Autopilot) remove(ctx context.Context, st *store.Store, name, by string) error {
	if status := a.Node.Status(); status.Leader != status.Name {
		return consensus.ErrNotLeader
	}
	r, revision, err := a.removal(name)
	if err != nil && !errors.Is(err, store.ErrNotFound) && revision == 0 {
		return err
	}
	before := r
	r.At, r.By = time.Now().Unix(), by
	for _, k := range a.Keys(name) {
		if !has(r.Keys, k[:]) {
			r.Keys = append(r.Keys, bytes.Clone(k[:]))
		}
	}
	r.Keys = r.Keys[max(0, len(r.Keys)-keysMax):]
	written, err := a.write(ctx, st, name, r, revision)
	if err != nil {
		return fmt.Errorf("note that %s is removed: %w", name, err)
	}
	err = a.Node.RemoveServer(ctx, name)
	if err == nil {
		a.Logger.Info("control node removed", "server", name, "by", by)
		return nil
	}
	if errors.Is(err, consensus.ErrNotLeader) { // it was not done: leave no word of it
		if revision == 0 {
			_ = st.System().Delete(ctx, removedPrefix+name, written)
		} else {
			_, _ = a.write(ctx, st, name, before, written)
		}
	}
	return err
}

func (a *Autopilot) write(ctx context.Context, st *store.Store, name string, r removal, revision uint64) (uint64, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	if revision == 0 {
		return st.System().Create(ctx, removedPrefix+name, value)
	}
	return st.System().Update(ctx, removedPrefix+name, value, revision)
}

// Add takes a control node in and forgets that it was removed. A node that
// runs must be the one meant, and able to read what the cluster writes; one that
// does not run is asked when it starts. Leader only.
func (a *Autopilot) Add(ctx context.Context, name, address string) (voter bool, err error) {
	if status := a.Node.Status(); status.Leader != status.Name {
		return false, consensus.ErrNotLeader
	}
	who, err := a.Node.Describe(ctx, name, address)
	switch format := a.Store.Format(); {
	case errors.Is(err, consensus.ErrForeign), errors.Is(err, consensus.ErrOtherName):
		return false, fmt.Errorf("%w: %w", consensus.ErrRefused, err)
	case err == nil && max(1, who.Format) < format:
		return false, fmt.Errorf("%w: the cluster writes commands of format %d, and the muster at %s reads up to %d: start the newer version there", consensus.ErrRefused, format, address, max(1, who.Format))
	}
	err = a.Store.System().Delete(ctx, removedPrefix+name, 0)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, fmt.Errorf("forget that %s was removed: %w", name, err)
	}
	return a.Node.AddServer(ctx, name, address)
}
