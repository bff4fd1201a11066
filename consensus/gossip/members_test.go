package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func known(name, meta string) *memberlist.Node {
	return &memberlist.Node{Name: name, Addr: net.IPv4(10, 0, 0, 1), Port: 7946, Meta: []byte(meta)}
}

func TestGoneMembersAreListedForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers("self", slog.New(slog.DiscardHandler))
		m.NotifyJoin(known("dead", `{"r":"agent"}`))
		m.NotifyJoin(known("alive", `{}`))
		m.NotifyLeave(known("dead", ""))
		time.Sleep(goneAge)
		if list := m.list(time.Now()); len(list) != 2 || list[1].State != Dead || list[1].Role != "agent" {
			t.Errorf("after a day: %+v, want both", list)
		}
		time.Sleep(time.Second)
		if list := m.list(time.Now()); len(list) != 1 || list[0].Name != "alive" {
			t.Errorf("later: %+v, want the living", list)
		}
	})
}

func TestTheNumberOfGoneMembersIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers("self", slog.New(slog.DiscardHandler))
		for i := range goneMax + 10 {
			n := known(fmt.Sprintf("n%04d", i), "")
			m.NotifyJoin(n)
			m.NotifyLeave(n)
			time.Sleep(time.Millisecond)
		}
		list := m.list(time.Now())
		if len(list) != goneMax || list[0].Name != "n0010" {
			t.Errorf("%d listed, the first %s; want %d without the ten longest gone", len(list), list[0].Name, goneMax)
		}
	})
}

func TestChangedTellsOfEveryChange(t *testing.T) {
	m := newMembers("self", slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		name   string
		do     func()
		change bool
	}{
		{"new", func() { m.NotifyJoin(known("n", `{"v":"1"}`)) }, true},
		{"the same again", func() { m.NotifyUpdate(known("n", `{"v":"1"}`)) }, false},
		{"another version", func() { m.NotifyUpdate(known("n", `{"v":"2"}`)) }, true},
		{"dead", func() { m.NotifyLeave(known("n", "")) }, true},
		{"back", func() { m.NotifyJoin(known("n", `{"v":"2"}`)) }, true},
		{"about to leave", func() { m.NotifyUpdate(known("n", `{"v":"2","l":true}`)) }, true},
		{"unknown", func() { m.NotifyLeave(known("x", "")) }, false},
	} {
		changed := m.changed()
		c.do()
		select {
		case <-changed:
			if !c.change {
				t.Errorf("%s: told of a change", c.name)
			}
		default:
			if c.change {
				t.Errorf("%s: not told", c.name)
			}
		}
	}
	m.NotifyLeave(known("n", ""))
	if got := m.list(time.Now())[0].State; got != Left {
		t.Errorf("after the goodbye: %s, want %s", got, Left)
	}
}

func TestMemberlistsRoutineIsDebug(t *testing.T) {
	for line, want := range map[string]string{
		"[INFO] memberlist: Suspect n1 has failed, no acks received":                           "DEBUG",
		"[DEBUG] memberlist: Stream connection from=127.0.0.1":                                 "DEBUG",
		"[ERR] memberlist: Failed fallback TCP ping: connection refused":                       "DEBUG",
		"[WARN] memberlist: Was able to connect to n1 over TCP but UDP probes failed":          "WARN",
		"[ERR] memberlist: Decrypt packet failed: No installed keys could decrypt the message": "WARN",
		"something without a level":                                                            "DEBUG",
	} {
		var out bytes.Buffer
		w := &logWriter{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		if n, err := w.Write([]byte(line + "\n")); err != nil || n != len(line)+1 {
			t.Errorf("Write: %d, %v", n, err)
		}
		if !strings.Contains(out.String(), "level="+want) || strings.Contains(out.String(), "memberlist:") {
			t.Errorf("%s: got %s, want level %s", line, out.String(), want)
		}
	}
}

func FuzzParseAbout(f *testing.F) {
	f.Add([]byte(`{"r":"server","a":"10.0.0.1:6443","v":"v1","l":true,"future":[1]}`))
	f.Add([]byte(`{"r":1}`))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, meta []byte) {
		a := parseAbout(meta)
		if len(meta) > memberlist.MetaMaxSize && a != (about{}) {
			t.Error("read more than memberlist carries")
		}
	})
}
