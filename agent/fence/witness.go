package fence

import (
	"encoding/json"
	"time"

	"github.com/musterhq/muster/proto/agent/fencing"
)

// askedMost are how many other nodes are asked. Where there are more, those are
// drawn anew whenever the list of nodes comes, and more of them must agree.
const askedMost = 128

// peers are the other nodes, as the control plane told.
type peers struct {
	// Nodes is how many there are in all, this one included; 0: not known.
	Nodes int `json:"nodes"`
	// Asked are all others, or as many of them as are asked.
	Asked []peer `json:"asked"`
}

type peer struct {
	Name string `json:"name"`
	// Address of its gossip, when it was last known.
	Address string `json:"address,omitempty"`
}

// round is one question to all, and who has answered that it lacks the control
// plane.
type round struct {
	number  uint64
	at      time.Duration
	lacking map[string]bool
}

// message is what agents send each other. Who does not lack the control plane
// does not answer.
type message struct {
	Ask     uint64 `json:"ask,omitempty"`
	Lacking uint64 `json:"lacking,omitempty"`
	Name    string `json:"name"`
	Address string `json:"address"` // of the sender
}

// Nodes says which other nodes there are.
func (f *Fence) Nodes(others []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := make(map[string]string, len(f.peers.Asked))
	for _, p := range f.peers.Asked {
		known[p.Name] = p.Address
	}
	now := peers{Nodes: len(others) + 1}
	if len(others) > askedMost {
		others = shuffled(append([]string(nil), others...), askedMost)
	}
	for _, name := range others {
		now.Asked = append(now.Asked, peer{name, known[name]})
	}
	f.peers = now
}

// begin begins a round and answers whom to ask. It is called with mu held.
func (f *Fence) begin(now time.Duration) (question []peer, number uint64) {
	f.asked = now
	if f.send == nil || f.peers.Nodes == 0 {
		return nil, 0
	}
	f.round = round{number: f.round.number + 1, at: now, lacking: map[string]bool{}}
	f.count() // this node may be the only one
	for i, p := range f.peers.Asked {
		if address, ok := f.locate(p.Name); ok {
			f.peers.Asked[i].Address = address
		}
	}
	return append([]peer(nil), f.peers.Asked...), f.round.number
}

func (f *Fence) say(to peer, m message) {
	m.Name, m.Address = f.cfg.Name, f.address
	text, err := json.Marshal(m)
	if err == nil {
		err = f.send(to.Address, to.Name, text)
	}
	if err != nil {
		f.log.Debug("another agent was not reached", "node", to.Name, "err", err)
	}
}

// Receive takes what another agent has sent.
func (f *Fence) Receive(text []byte) {
	var m message
	if json.Unmarshal(text, &m) != nil || m.Name == "" {
		return // of a later version
	}
	f.mu.Lock()
	if m.Lacking != 0 && m.Lacking == f.round.number {
		f.round.lacking[m.Name] = true
		f.count()
	}
	// One that has just started lacks it only when it has looked for as long.
	now := f.cfg.Clock()
	lacks := now-f.heard >= fencing.LackingAfter && now-f.began >= fencing.LackingAfter
	answers := m.Ask != 0 && lacks && f.send != nil
	f.mu.Unlock()
	if answers {
		f.say(peer{m.Name, m.Address}, message{Lacking: m.Ask})
	}
}

// count lets guarded pods go on if enough nodes have said that they lack the
// control plane, this one included. It is called with mu held.
func (f *Fence) count() {
	if f.cfg.Clock()-f.heard < fencing.LackingAfter {
		return
	}
	lacking := 1
	for _, p := range f.peers.Asked {
		if f.round.lacking[p.Name] {
			lacking++
		}
	}
	enough := fencing.GoesOn(f.peers.Nodes, lacking)
	if asked := len(f.peers.Asked); asked+1 < f.peers.Nodes {
		enough = fencing.SampleGoesOn(asked, lacking-1)
	}
	if enough {
		f.mayGoOn(f.round.at + fencing.Freshness)
	}
}
