package autopilot

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Each control node is a word: v votes, n does not; then for how many minutes
// it has been gone, 0 if it is alive.
func parseMembers(t *testing.T, text string) []member {
	t.Helper()
	var members []member
	for i, word := range strings.Fields(text) {
		minutes := 0
		if _, err := fmt.Sscan(word[1:], &minutes); err != nil {
			t.Fatal(err)
		}
		members = append(members, member{
			name: fmt.Sprintf("c%d", i+1), voter: word[0] == 'v', gone: time.Duration(minutes) * time.Minute,
		})
	}
	return members
}

// Removing one too many, or the wrong one, stops the cluster for good; the
// plan errs on the side of leaving things as they are.
func TestPlanRemovesTheDeadAndNeverTooMany(t *testing.T) {
	off := Defaults
	off.CleanupDeadServers = false
	one := Defaults
	one.MinVoters = 1
	for _, test := range []struct {
		name     string
		settings Settings
		members  string
		remove   string
		held     string
	}{
		{"all alive", Defaults, "v0 v0 v0 v0 v0", "", ""},
		{"one of five, not for long", Defaults, "v0 v0 v0 v0 v9", "", ""},
		{"one of five", Defaults, "v0 v0 v0 v0 v10", "c5", ""},
		{"two of five: the longest gone first", Defaults, "v0 v0 v11 v12 v0", "c4", ""},
		{"the second, once four are left", Defaults, "v0 v0 v11 v0", "c3", ""},
		{"three of five: who is left cannot agree", Defaults, "v0 v0 v11 v12 v13", "", "only 2 of 5"},
		{"one dead for long and two for a moment", Defaults, "v0 v0 v1 v1 v13", "", "only 2 of 5"},
		{"two of four", Defaults, "v0 v0 v11 v12", "", "only 2 of 4"},
		{"one of four", Defaults, "v0 v0 v0 v12", "c4", ""},
		{"one of three stays, as two tolerate nothing", Defaults, "v0 v0 v12", "", "min-voters is 3"},
		{"one of three, if that is wanted", one, "v0 v0 v12", "c3", ""},
		{"one of two never", one, "v0 v12", "", "only 1 of 2"},
		{"its replacement does not vote yet", Defaults, "v0 v0 v12 n0", "", "min-voters is 3"},
		{"its replacement votes", Defaults, "v0 v0 v12 v0", "c3", ""},
		{"who does not vote goes", Defaults, "v0 v0 v0 n12", "c4", ""},
		{"who does not vote goes first", Defaults, "v0 v0 v0 v20 n12", "c5", ""},
		{"who does not vote goes also where voters may not", Defaults, "v0 v0 v20 n12", "c4", ""},
		{"switched off", off, "v0 v0 v0 v0 v12", "", "clean-up is off"},
		{"seven, three dead", Defaults, "v0 v0 v0 v0 v30 v20 v40", "c7", ""},
		{"seven, four dead", Defaults, "v0 v0 v0 v10 v30 v20 v40", "", "only 3 of 7"},
		{"alone", Defaults, "v0", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			remove, held := plan(test.settings, parseMembers(t, test.members))
			if remove != test.remove || test.held == "" && held != "" || !strings.Contains(held, test.held) {
				t.Errorf("removes %q (%q), want %q (%q)", remove, held, test.remove, test.held)
			}
		})
	}
}

// Gossip may be cut off where raft is not, and the other way round: only who is
// silent in both ways is gone.
func TestGoneIsWhoIsSilentInEveryWay(t *testing.T) {
	for _, test := range []struct {
		state         string
		lasts, silent time.Duration
		want          time.Duration
	}{
		{"alive", time.Hour, time.Hour, 0},
		{"dead", time.Hour, 0, 0},
		{"dead", time.Hour, time.Minute, time.Minute},
		{"left", time.Minute, time.Hour, time.Minute},
		{"unknown", 0, time.Hour, time.Hour},
		{"unknown", 0, 0, 0},
	} {
		if got := gone(test.state, test.lasts, test.silent); got != test.want {
			t.Errorf("%s for %v, silent for %v: gone for %v, want %v", test.state, test.lasts, test.silent, got, test.want)
		}
	}
}

func TestCommonFormatIsThatOfTheOldest(t *testing.T) {
	servers := []consensus.Server{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}}
	for _, test := range []struct {
		formats string // of c1, c2, c3; - does not answer
		want    uint32
		behind  string
	}{
		{"3 3 3", 3, ""},
		{"3 2 3", 2, "c2 runs a newer version"},
		{"3 2 1", 1, "c2, c3 runs a newer version"},
		{"3 4 5", 3, ""},
		{"3 3 0", 1, "c3 runs"}, // who does not say
		{"3 - 3", 1, "c2 answers or is removed"},
		{"3 - 2", 1, "c3 runs a newer version, and c2 answers"},
	} {
		answers := map[string]described{}
		for i, word := range strings.Fields(test.formats) {
			it := described{err: fmt.Errorf("silence")}
			if word != "-" {
				it = described{DescribeResponse: &clusterv1.DescribeResponse{Format: uint32(word[0] - '0')}}
			}
			answers[servers[i].Name] = it
		}
		if got, behind := common(3, servers, answers); got != test.want || test.behind == "" && behind != "" || !strings.Contains(behind, test.behind) {
			t.Errorf("%s: got %d (%q), want %d (%q)", test.formats, got, behind, test.want, test.behind)
		}
	}
}
