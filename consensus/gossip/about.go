package gossip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/hashicorp/memberlist"
)

// about is what a node says of itself with its name and address, as JSON. The
// names are short because memberlist allows 512 bytes. Fields may be added;
// what is unknown is ignored.
type about struct {
	Role    string `json:"r,omitempty"`
	API     string `json:"a,omitempty"`
	Version string `json:"v,omitempty"`
	Leaving bool   `json:"l,omitempty"`
}

// parseAbout reads what another node said. What cannot be read counts as
// nothing said: the node is alive all the same.
func parseAbout(meta []byte) about {
	var a about
	if len(meta) > memberlist.MetaMaxSize || json.Unmarshal(meta, &a) != nil {
		return about{}
	}
	return a
}

// self is this node's memberlist.Delegate. Beside the meta data, and what members
// Send each other, nothing is exchanged.
type self struct {
	received func([]byte)

	mu    sync.Mutex
	about about
}

func (s *self) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.about.Leaving = true
}

// fits says whether the meta data will, leaving included.
func (s *self) fits() error {
	a := s.about
	a.Leaving = true
	meta, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if len(meta) > memberlist.MetaMaxSize {
		return fmt.Errorf("role, API address and version take %d bytes; at most %d fit", len(meta), memberlist.MetaMaxSize)
	}
	return nil
}

func (s *self) NodeMeta(int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	meta, _ := json.Marshal(s.about) // fits tried it
	return meta
}

// NotifyMsg takes what was sent. The bytes are memberlist's.
func (s *self) NotifyMsg(message []byte) {
	if s.received != nil {
		s.received(bytes.Clone(message))
	}
}

func (s *self) GetBroadcasts(int, int) [][]byte { return nil }
func (s *self) LocalState(bool) []byte          { return nil }
func (s *self) MergeRemoteState([]byte, bool)   {}
