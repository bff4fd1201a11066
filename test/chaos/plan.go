package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/test/chaos/lan"
)

// step is one fault, or two at once, of a schedule.
type step struct {
	at     time.Duration
	hold   time.Duration
	faults []fault
}

func (s step) String() string {
	var parts []string
	for _, f := range s.faults {
		parts = append(parts, f.String())
	}
	return fmt.Sprintf("%7.1fs for %4.1fs: %s", s.at.Seconds(), s.hold.Seconds(), strings.Join(parts, "; and "))
}

// fault is what is to go wrong, in terms that can be said before it is known
// who leads.
type fault struct {
	kind   string
	target target
	rule   lan.Link      // of kind link
	clock  time.Duration // of kind clock
	slow   time.Duration // of kind slow
}

func (f fault) String() string {
	text := f.kind + " " + f.target.String()
	switch f.kind {
	case "link":
		text += ": " + f.rule.String()
	case "clock":
		text += fmt.Sprintf(" by %v", f.clock)
	case "slow":
		text += fmt.Sprintf(" by %v a sync", f.slow)
	}
	return text
}

// target is a node: the leader, a follower by rank, or one by its number.
type target struct {
	role role
	n    int
}

type role int

const (
	leader role = iota
	follower
	numbered
	everyone
)

func (t target) String() string {
	switch t.role {
	case leader:
		return "the leader"
	case follower:
		return fmt.Sprintf("follower %d", t.n+1)
	case everyone:
		return "everyone"
	default:
		return fmt.Sprintf("n%d", t.n+1)
	}
}

// kinds are the faults there are. Those that lose comes with take what a node
// has, or have it end: two at once could take a quorum's.
var kinds = []struct {
	name   string
	weight int
	loses  bool // not beside any other that interrupts
	calm   bool // interrupts nobody: goes with every other
	what   string
}{
	{"kill", 12, false, false, "kill -9; what was not synced is lost"},
	{"kill-all", 4, true, false, "kill -9 of all nodes at once"},
	{"stop", 9, false, false, "SIGSTOP, later SIGCONT"},
	{"isolate", 9, false, false, "cut off from all others"},
	{"deaf", 4, false, false, "sends, and receives nothing"},
	{"mute", 4, false, false, "receives, and nothing it sends arrives"},
	{"bridge", 5, false, false, "the other two do not reach each other, this one both"},
	{"link", 10, false, true, "delay, loss, duplicates, reordering"},
	{"slow", 5, false, true, "slow fsync"},
	{"hung", 5, false, false, "fsync hangs"},
	{"full", 5, false, false, "ENOSPC"},
	{"failing", 4, true, false, "EIO on fsync; the node ends, and is started again or begins anew"},
	{"wipe", 4, true, false, "dies with its disk; joins again under its name"},
	{"forget", 4, true, false, "dies with its log and snapshots, and keeps who it is"},
	{"remove", 4, true, false, "removed from the cluster, wiped, joins again"},
	{"transfer", 6, false, true, "leadership is handed on, again and again"},
	{"clock", 8, false, true, "the wall clock jumps, the monotonic clock does not"},
}

// diskKinds exclude one another: a disk has one fault at a time.
var diskKinds = []string{"slow", "hung", "full", "failing"}

// plan makes a schedule from a seed: the same for the same seed, length, size
// and choice of kinds (empty: all).
func plan(seed uint64, length time.Duration, nodes int, only []string) []step {
	rng := rand.New(rand.NewPCG(seed, 1))
	var steps []step
	at := time.Duration(1500+rng.IntN(1000)) * time.Millisecond
	for {
		s := step{at: at, hold: time.Duration(1500+rng.IntN(4500)) * time.Millisecond}
		first := pick(rng, nodes, only, func(i int) bool { return true })
		s.faults = append(s.faults, first)
		if rng.IntN(3) == 0 {
			loses, calm := traits(first.kind)
			s.faults = append(s.faults, pick(rng, nodes, only, func(i int) bool {
				k := kinds[i]
				if k.name == first.kind || slices.Contains(diskKinds, k.name) && slices.Contains(diskKinds, first.kind) || misled(first.kind, k.name) || misled(k.name, first.kind) {
					return false
				}
				return k.calm || calm || !loses && !k.loses
			}))
			if s.faults[1].kind == "" {
				s.faults = s.faults[:1]
			}
		}
		if at+s.hold > length {
			return steps
		}
		steps = append(steps, s)
		at += s.hold + time.Duration(800+rng.IntN(2700))*time.Millisecond
	}
}

// misled says of two faults that one has a node join while the other has who
// signs its certificate at a wrong time: it would be valid at that time only,
// also once the clocks are right.
func misled(join, clock string) bool {
	return (join == "wipe" || join == "remove") && clock == "clock"
}

func traits(kind string) (loses, calm bool) {
	for _, k := range kinds {
		if k.name == kind {
			return k.loses, k.calm
		}
	}
	return false, false
}

// pick chooses a fault among the kinds that may be; none, when none may.
func pick(rng *rand.Rand, nodes int, only []string, may func(int) bool) fault {
	sum := 0
	allowed := func(i int) bool { return (len(only) == 0 || slices.Contains(only, kinds[i].name)) && may(i) }
	for i, k := range kinds {
		if allowed(i) {
			sum += k.weight
		}
	}
	if sum == 0 {
		return fault{}
	}
	n := rng.IntN(sum)
	var f fault
	for i, k := range kinds {
		if !allowed(i) {
			continue
		}
		if n -= k.weight; n < 0 {
			f.kind = k.name
			break
		}
	}
	switch {
	case f.kind == "kill-all":
		f.target = target{role: everyone}
	case f.kind == "transfer":
		f.target = target{role: leader}
	case f.kind == "remove":
		f.target = target{follower, rng.IntN(nodes - 1)}
	default:
		f.target = []target{{leader, 0}, {follower, rng.IntN(nodes - 1)}, {numbered, rng.IntN(nodes)}}[rng.IntN(3)]
	}
	switch f.kind {
	case "link":
		if rng.IntN(2) == 0 {
			f.target = target{role: everyone}
		}
		switch rng.IntN(3) {
		case 0:
			f.rule = lan.Link{Delay: time.Duration(5+rng.IntN(95)) * time.Millisecond, Jitter: time.Duration(1+rng.IntN(50)) * time.Millisecond}
		case 1:
			f.rule = lan.Link{Loss: 0.02 + 0.2*rng.Float64()}
		default:
			f.rule = lan.Link{Delay: time.Millisecond, Duplicate: 0.3 * rng.Float64(), Reorder: 0.3 * rng.Float64(), Loss: 0.02}
		}
	case "clock":
		f.clock = time.Duration(rng.IntN(2*48*60)-48*60) * time.Minute
		if rng.IntN(4) == 0 {
			f.target = target{role: everyone}
		}
	case "slow":
		f.slow = time.Duration(10+rng.IntN(400)) * time.Millisecond
		if rng.IntN(3) == 0 {
			f.target = target{role: everyone}
		}
	case "full":
		if rng.IntN(4) == 0 {
			f.target = target{role: everyone}
		}
	}
	return f
}
