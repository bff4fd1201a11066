package session_test

import (
	"testing"
	"time"

	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/agent/session/sessiontest"
)

// Where datagrams pass, nothing is said through the stream. When they cease to,
// heartbeats go through the stream in the same session; when they pass again, they do
// not. The agent is certain of its control node all the time.
func TestHeartbeatsGoWhereTheyPass(t *testing.T) {
	control := sessiontest.Start(t, "c1")
	control.Mute = true // no answers through the stream, of which there is no need
	datagrams := control.HearDatagrams(t, 100*time.Millisecond)
	c, h := &certainty{}, &handler{}
	run(t, h, func(cfg *session.Config) {
		cfg.Heartbeat, cfg.Certainty, cfg.Silence = 100*time.Millisecond, c, time.Minute
	}, control)
	sessiontest.Eventually(t, 10*time.Second, "certainty by datagrams", func() bool {
		_, certain, last := c.counts()
		return certain >= 5 && last > 5
	})
	datagrams.Filtered.Store(true)
	before := control.Beats()
	sessiontest.Eventually(t, 20*time.Second, "heartbeats through the stream", func() bool { return control.Beats() > before+10 })
	datagrams.Filtered.Store(false)
	heard := datagrams.Heard.Load()
	sessiontest.Eventually(t, 20*time.Second, "datagrams again", func() bool { return datagrams.Heard.Load() > heard+10 })
	if len(control.Nodes()) != 1 {
		t.Errorf("%d sessions, want 1", len(control.Nodes()))
	}
}

// Nobody is at the port: the session does not care.
func TestADeadPortCostsNoSession(t *testing.T) {
	control := sessiontest.Start(t, "c1")
	control.HearDatagrams(t, 50*time.Millisecond).Close()
	h := &handler{}
	run(t, h, nil, control)
	sessiontest.Eventually(t, 10*time.Second, "heartbeats through the stream", func() bool { return control.Beats() > 5 })
	if len(control.Nodes()) != 1 {
		t.Errorf("%d sessions, want 1", len(control.Nodes()))
	}
}
