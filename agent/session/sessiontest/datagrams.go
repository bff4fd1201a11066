package sessiontest

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/proto/agent/beat"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Datagrams are what a control node hears at its UDP port, of one session.
type Datagrams struct {
	// Filtered: none arrives.
	Filtered atomic.Bool
	// Heard is how many did.
	Heard atomic.Int64

	beats *agentv1.Beats
	close func()
}

// Close closes the port.
func (d *Datagrams) Close() { d.close() }

// HearDatagrams has the control node tell agents, from the next session on, that it
// hears datagrams, each so often.
func (c *Control) HearDatagrams(t testing.TB, interval time.Duration) *Datagrams {
	t.Helper()
	address, err := net.ResolveUDPAddr("udp", c.Address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	d := &Datagrams{beats: &agentv1.Beats{Session: 7, Key: beat.NewKey(), IntervalMs: uint32(interval.Milliseconds())}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		seal := beat.NewSeal(d.beats.Session, d.beats.Key)
		buffer := make([]byte, 100)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			said, err := seal.OpenBeat(buffer[:n])
			if err != nil || d.Filtered.Load() {
				continue
			}
			d.Heard.Add(1)
			answer := beat.Answer{Beat: said, Quorum: !c.Minority, Interval: interval}
			_, _ = conn.WriteToUDPAddrPort(seal.Answer(nil, answer), from)
		}
	}()
	d.close = func() { _ = conn.Close(); <-done }
	t.Cleanup(d.close)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.datagrams = d
	return d
}
