package workloads

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

var (
	seeds = flag.String("seeds", "1..2", "which seeds, as 7 or 1..50")
	every = flag.Bool("every", false, "let the leader die at every single write of each user's work, not at some")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deaths is how leaders die in a run: some at their first write, their second, and so
// on, then more at random.
func deaths(seed uint64, steps, random int) []Death {
	r := rand.New(rand.NewPCG(seed, 2))
	var all []Death
	for i := range steps {
		all = append(all, Death{After: i, Effect: r.IntN(2) == 0})
	}
	for range random {
		all = append(all, Death{After: r.IntN(40), Effect: r.IntN(2) == 0})
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// do runs it in a bubble.
func do(t *testing.T, r Run) Outcome {
	var o Outcome
	synctest.Test(t, func(t *testing.T) { o = r.Do(t) })
	return o
}

func seedRange(text string) (first, last uint64, err error) {
	from, to, ranged := strings.Cut(text, "..")
	if first, err = strconv.ParseUint(from, 10, 64); err != nil {
		return 0, 0, err
	}
	last = first
	if ranged {
		last, err = strconv.ParseUint(to, 10, 64)
	}
	return first, last, err
}

func TestWorkloadsSurviveTheirLeaders(t *testing.T) {
	first, last, err := seedRange(*seeds)
	if err != nil {
		t.Fatal(err)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			began := time.Now()
			o := do(t, Run{Seed: seed, Deaths: deaths(seed, 30, 30)})
			for _, v := range o.Violations {
				t.Error(v)
			}
			t.Logf("%d leaders, %d revisions, in %v", o.Terms, o.Revisions, time.Since(began).Round(time.Millisecond))
		})
	}
}

// Machines are cut off, alone and together, for moments and for long, while leaders
// die: no ordinal ever runs twice, and all is well in the end.
func TestNoOrdinalTwiceWhenMachinesAreCutOff(t *testing.T) {
	first, last, err := seedRange(*seeds)
	if err != nil {
		t.Fatal(err)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			o := do(t, Run{Seed: seed, Deaths: deaths(seed, 0, 20), Users: Lossy, Lossy: true})
			for _, v := range o.Violations {
				t.Error(v)
			}
			t.Logf("%d leaders, %d revisions", o.Terms, o.Revisions)
		})
	}
}

// An agent that stops later than it promises is found.
func TestSlowAgentIsFound(t *testing.T) {
	for seed := range uint64(5) {
		for _, v := range do(t, Run{Seed: seed, Bug: slowAgent, Users: Lossy, Lossy: true}).Violations {
			if v.Promise == oneOrdinal {
				t.Log(v)
				return
			}
		}
	}
	t.Errorf("%q is not found broken", oneOrdinal)
}

// One leader dies, at each of the writes that one user's work takes, with that
// write committed and not; in short, at a few of them.
func TestLeaderDiesAtEveryStep(t *testing.T) {
	for _, user := range Everybody {
		t.Run(user.Name, func(t *testing.T) {
			stride, at, runs := 150, 17, 0
			if *every {
				stride, at = 1, 0
			}
			for died := true; died; at += stride {
				for _, effect := range []bool{false, true} {
					o := do(t, Run{Seed: uint64(at), Deaths: []Death{{After: at, Effect: effect}}, Users: []User{user}})
					for _, v := range o.Violations {
						t.Errorf("write %d, effect %v: %v", at, effect, v)
					}
					died = o.Terms > 1
					runs++
				}
			}
			t.Logf("%d runs, up to write %d", runs, at-stride)
		})
	}
}

// A checker that finds nothing may be one that can't. Each bug must be found by
// the promise that it breaks.
func TestPlantedBugsAreFound(t *testing.T) {
	for bug, test := range map[string]struct {
		breaks string
		user   int // of Everybody
	}{
		"impatient-rollout": {enough, 0},
		"forgetful-job":     {onceEach, 1},
		"hasty-ordinal":     {oneOrdinal, 2},
		"wrong-end":         {inOrder, 2},
		"leak":              {nothingLeft, 3},
	} {
		t.Run(bug, func(t *testing.T) {
			o := do(t, Run{Seed: 1, Bug: bug, Users: Everybody[test.user : test.user+1]})
			for _, v := range o.Violations {
				if v.Promise == test.breaks {
					t.Log(v)
					return
				}
			}
			t.Errorf("%q is not found broken among %v", test.breaks, o.Violations)
		})
	}
}
