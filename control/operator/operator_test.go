package operator

import (
	"strings"
	"testing"
)

func TestMembersTellsWhatIsWrong(t *testing.T) {
	servers := []Server{{"c1", "10.0.0.1:6443", true}, {"c2", "10.0.0.2:6443", true}, {"c3", "10.0.0.3:6443", true}}
	gossip := func(states ...string) (members []Member) {
		for i, state := range states {
			members = append(members, Member{Name: servers[i].Name, Role: "server", State: state})
		}
		return append(members, Member{Name: "n1", Role: "agent", State: "alive"})
	}
	for _, test := range []struct {
		name    string
		view    View
		warning string // must contain; "" means none
	}{
		{"all well", View{Name: "c1", Leader: "c1", HasQuorum: true, Servers: servers, Gossip: gossip("alive", "alive", "alive")}, ""},
		{"one dead", View{Name: "c1", Leader: "c1", HasQuorum: true, Servers: servers, Gossip: gossip("alive", "dead", "alive")}, "0 more may fail"},
		{"cut off", View{Name: "c1", Servers: servers, Gossip: gossip("alive", "dead", "dead")}, "no quorum"},
		{"even", View{Name: "c1", Leader: "c1", HasQuorum: true, Servers: servers[:2], Gossip: gossip("alive", "alive")}, "add or remove one"},
		{"never heard", View{Name: "c1", Leader: "c1", HasQuorum: true, Servers: servers, Gossip: gossip("alive", "alive")}, "1 of 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := members(test.view)
			if (got.Warning == "") != (test.warning == "") || !strings.Contains(got.Warning, test.warning) {
				t.Errorf("warning %q, want one with %q", got.Warning, test.warning)
			}
			for _, s := range test.view.Servers {
				found := false
				for _, m := range got.Members {
					found = found || m.Name == s.Name && m.Voter && m.Leader == (m.Name == test.view.Leader)
				}
				if !found {
					t.Errorf("control node %s is not listed as it should be: %v", s.Name, got.Members)
				}
			}
		})
	}
}
