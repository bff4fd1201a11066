package chaos

import (
	"reflect"
	"testing"
	"time"
)

// What a seed found must be found again with it.
func TestScheduleFollowsFromTheSeed(t *testing.T) {
	a, b := plan(7, 5*time.Minute, 3, nil), plan(7, 5*time.Minute, 3, nil)
	if !reflect.DeepEqual(a, b) {
		t.Error("two schedules of one seed differ")
	}
	if reflect.DeepEqual(a, plan(8, 5*time.Minute, 3, nil)) {
		t.Error("two seeds have the same schedule")
	}
}

// Two faults at once must not take a quorum's disks, and all kinds must have
// their turn.
func TestScheduleKeepsToItsBudget(t *testing.T) {
	seen := map[string]int{}
	pairs := 0
	for seed := range uint64(50) {
		for _, s := range plan(seed, 5*time.Minute, 3, nil) {
			interrupting, losing := 0, 0
			for _, f := range s.faults {
				seen[f.kind]++
				loses, calm := traits(f.kind)
				if !calm {
					interrupting++
				}
				if loses {
					losing++
				}
			}
			if losing > 0 && interrupting > 1 {
				t.Errorf("seed %d: %v: a node loses what it has while another is interrupted", seed, s)
			}
			if len(s.faults) == 2 {
				pairs++
			}
		}
	}
	for _, k := range kinds {
		if seen[k.name] < 20 {
			t.Errorf("%s happens %d times in 50 schedules of 5 minutes", k.name, seen[k.name])
		}
	}
	if pairs < 100 {
		t.Errorf("%d pairs of faults in 50 schedules", pairs)
	}
}

func TestOnlyTheChosenKindsHappen(t *testing.T) {
	for _, s := range plan(1, 5*time.Minute, 3, []string{"kill"}) {
		if len(s.faults) != 1 || s.faults[0].kind != "kill" {
			t.Errorf("%v, want kills alone", s)
		}
	}
}
