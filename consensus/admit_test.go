package consensus

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// policy is an Admit that refuses some names, and remembers who asked.
type policy struct {
	mu      sync.Mutex
	refused map[string]bool
	asked   []Candidate
}

func (p *policy) admit(_ context.Context, c Candidate) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, c)
	if p.refused[c.Name] {
		return fmt.Errorf("%w: %s was removed", ErrRefused, c.Name)
	}
	return nil
}

func (p *policy) refuse(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = map[string]bool{name: true}
}

func (p *policy) last(name string) (last Candidate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.asked {
		if c.Name == name {
			last = c
		}
	}
	return last
}

// Nobody tells a removed server that it is one: it hears no leader any more,
// or, restarted, still finds itself in its own configuration. It must end and
// say why, instead of waiting for ever.
func TestRemovedServerEndsAndSaysWhy(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted=%v", restarted), func(t *testing.T) {
			p := &policy{}
			c := newCluster(t, 3, func(cfg *Config) { cfg.Admit = p.admit })
			gone := c.followers()[0]
			if restarted {
				gone.kill()
			}
			p.refuse(gone.name)
			ctx, cancel := c.ctx()
			defer cancel()
			if err := c.leader().RemoveServer(ctx, gone.name); err != nil {
				t.Fatal(err)
			}
			if restarted {
				gone.start()
			}
			select {
			case <-gone.done:
			case <-time.After(time.Minute):
				t.Fatal("it still runs")
			}
			if text := fmt.Sprint(gone.err); !errors.Is(gone.err, ErrRefused) || strings.Contains(text, "\n") || strings.Count(text, "was removed") != 1 {
				t.Errorf("got %q, want one line with the leader's word", text)
			}
			c.propose(c.leader(), "the others go on")
			if got := len(c.leader().Status().Servers); got != 2 {
				t.Errorf("%d servers, want 2", got)
			}
		})
	}
}

// A node that is refused when it joins says so and does not ask for ever.
func TestRefusedJoinIsFinal(t *testing.T) {
	p := &policy{}
	p.refuse("x")
	c := newCluster(t, 3, func(cfg *Config) { cfg.Admit = p.admit })
	for _, seed := range c.hosts { // through the leader and through followers
		h := c.add("x", func(cfg *Config) { cfg.Format = 7 })
		if err := c.join(h, seed); !errors.Is(err, ErrRefused) || !strings.HasSuffix(err.Error(), "x was removed") {
			t.Errorf("through %s: got %v", seed.name, err)
		}
		if got := p.last("x"); got.Format != 7 || got.Member || got.Address != h.address {
			t.Errorf("the leader was asked for %+v, want format 7 at %s", got, h.address)
		}
		h.stop()
	}
	if got := len(c.leader().Status().Servers); got != 3 {
		t.Errorf("%d servers, want 3", got)
	}
}

// Every server says once, when it starts, what it reads.
func TestMemberIntroducesItselfAnew(t *testing.T) {
	p := &policy{}
	c := newCluster(t, 3, func(cfg *Config) { cfg.Admit = p.admit })
	h := c.followers()[0]
	h.stop()
	h.tune = func(cfg *Config) { cfg.Format = 2 }
	h.start()
	c.eventually("the new format", func() bool {
		last := p.last(h.name)
		return last.Format == 2 && last.Member && !last.Moved
	})
	ctx, cancel := c.ctx()
	defer cancel()
	for _, from := range c.hosts {
		who, err := from.Describe(ctx, h.name, h.address)
		if err != nil || who.Format != 2 || !who.Voter || who.Name != h.name {
			t.Errorf("%s hears %v, %v; want format 2 and a voter", from.name, who, err)
		}
	}
	if _, err := c.leader().Describe(ctx, "another", h.address); err == nil {
		t.Error("it answers to another name")
	}
}

// Which machine asks is what its certificate says, never what it says itself;
// who passes a request on is believed, because it has looked.
func TestKeyComesFromTheConnection(t *testing.T) {
	p := &policy{}
	c := newCluster(t, 1, func(cfg *Config) { cfg.Admit = p.admit })
	h := c.leader()
	caller := transport.Caller{Name: "c9", Role: identity.Server, Certificate: &x509.Certificate{RawSubjectPublicKeyInfo: []byte("its key")}}
	want := caller.Key()
	said := []byte("what it says")
	ctx := transport.NewContext(t.Context(), caller)
	service := &membership{node: h.Node}
	req := &clusterv1.AddServerRequest{Name: "c9", Address: "127.0.0.1:1", ClusterId: "cluster-1", Fresh: true, KeyHash: said}
	if _, err := service.AddServer(ctx, req); err != nil {
		t.Fatal(err)
	}
	if got := p.last("c9"); string(got.Key) != string(want[:]) || got.Format != 1 {
		t.Errorf("got key %x and format %d, want %x and 1", got.Key, got.Format, want)
	}
	req.Relayed = true
	if _, err := service.AddServer(ctx, req); err != nil {
		t.Fatal(err)
	}
	if got := p.last("c9"); string(got.Key) != string(said) {
		t.Errorf("passed on: got key %q, want %q", got.Key, said)
	}
}

func TestServerVotesOnceItWasStable(t *testing.T) {
	const stable = 700 * time.Millisecond
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.StableAfter = func(voters int) time.Duration {
			if voters < 3 {
				return 0
			}
			return stable
		}
	})
	h := c.add("c4", nil)
	began := time.Now()
	if err := c.join(h, c.followers()[0]); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < stable {
		t.Errorf("it votes after %v, want no sooner than %v", took, stable)
	}
}

func TestCandidateMustBeHeardWithoutABreak(t *testing.T) {
	var c candidates
	begin := time.Unix(0, 0)
	at := func(s float64) time.Time { return begin.Add(time.Duration(s * float64(time.Second))) }
	for _, step := range []struct {
		what   string
		at     float64
		term   uint64
		forget bool
		want   time.Duration
	}{
		{"the first word", 0, 1, false, 0},
		{"steady", 1, 1, false, time.Second},
		{"still steady", 2.5, 1, false, 2500 * time.Millisecond},
		{"after a silence", 4.6, 1, false, 0},
		{"steady again", 5.6, 1, false, time.Second},
		{"another leader's term", 5.7, 2, false, 0},
		{"steady under it", 6.7, 2, false, time.Second},
		{"it had fallen behind", 6.8, 2, true, 0},
	} {
		if step.forget {
			c.forget("c4")
		}
		if got := c.well(step.term, "c4", at(step.at)); got != step.want {
			t.Errorf("%s: well for %v, want %v", step.what, got, step.want)
		}
	}
	for i := range 2 * candidatesMax {
		c.well(2, fmt.Sprint("other", i), at(7))
	}
	if len(c.of) != candidatesMax {
		t.Errorf("%d are remembered, want %d", len(c.of), candidatesMax)
	}
}

// The leader knows whom it does not hear, and for how long.
func TestSilentMembersAreKnown(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader, dead := c.leader(), c.followers()[0]
	if silent := c.followers()[0].Silent(); silent != nil {
		t.Errorf("a follower knows %v", silent)
	}
	dead.kill()
	var first time.Duration
	c.eventually("silence", func() bool { first = leader.Silent()[dead.name]; return first > 0 })
	c.eventually("longer silence", func() bool { return leader.Silent()[dead.name] > first+100*time.Millisecond })
	if got := len(leader.Silent()); got != 1 {
		t.Errorf("%d are silent, want 1", got)
	}
	dead.start()
	c.eventually("the end of it", func() bool { return len(leader.Silent()) == 0 })
}
