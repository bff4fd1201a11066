package check

import (
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// groupMax is how many keys are one register of the model at most.
const groupMax = 4

// values is the state of a group of keys, in the order of its keys.
type values [groupMax]string

// input is an operation on a group: keys are places in it.
type input struct {
	op     *Op
	get    int // place of the key, or all
	guards []place
	writes []place
}

// place is a key's value in a group.
type place struct {
	at    int
	value string
}

const all = -1

// output is what the client saw.
type output struct {
	outcome Outcome
	found   values
}

// CheckLinearizable looks for an order of all operations that explains what was
// read, with porcupine, for each group of keys by itself: linearizability is
// local (Herlihy and Wing, theorem 1). The revisions are not used; a guard is
// taken for what it stands for, the value that was read. group says which keys
// transactions touch together; lists of a prefix for which it says "" are left out.
//
// It spends at most budget on a group. What it cannot decide is a violation
// (Undecided). Groups that have no order are drawn into dir unless it is "".
func CheckLinearizable(history []*Op, log *Log, group func(key string) string, budget time.Duration, dir string) []Violation {
	var r report
	for name, operations := range operations(history, log, group) {
		result, info := porcupine.CheckOperationsVerbose(model, operations, budget)
		if result == porcupine.Ok {
			continue
		}
		promise, what := Linearizable, "has no order that explains it"
		if result == porcupine.Unknown {
			promise, what = Undecided, fmt.Sprintf("is not decided after %v", budget)
		}
		drawn := ""
		if dir != "" && r.counts[promise] < shownMax {
			path := filepath.Join(dir, promise+"-"+strings.ReplaceAll(name, "/", "-")+".html")
			if err := draw(info, path); err != nil {
				drawn = ", and drawing it failed: " + err.Error()
			} else {
				drawn = ", see " + path
			}
		}
		r.add(promise, "the history of %s, %d operations, %s%s", name, len(operations), what, drawn)
	}
	return r.result()
}

func draw(info porcupine.LinearizationInfo, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return porcupine.Visualize(model, info, file)
}

// operations sorts a history into groups. Left out are local reads, which
// promise less, and what cannot have had an effect.
func operations(history []*Op, log *Log, group func(string) string) map[string][]porcupine.Operation {
	written := map[string]bool{}
	if log != nil {
		for _, e := range log.events {
			written[e.Value] = true
		}
	}
	places := map[string]map[string]int{}
	at := func(key string) int {
		name := group(key)
		if places[name] == nil {
			places[name] = map[string]int{}
		}
		place, ok := places[name][key]
		if !ok {
			place = len(places[name])
			places[name][key] = place
		}
		if place >= groupMax {
			panic(fmt.Sprintf("group %s has more than %d keys", name, groupMax))
		}
		return place
	}
	groups := map[string][]porcupine.Operation{}
	for _, op := range history {
		if op.Local || op.Outcome == Refused || op.Outcome == Unknown && op.Commit == nil {
			continue
		}
		if op.Outcome == Unknown && log != nil && log.Complete() && neverApplied(op, written) {
			continue
		}
		in, out := input{op: op, get: all}, output{outcome: op.Outcome}
		name := ""
		switch {
		case op.Commit != nil:
			name = group(op.Commit.Writes[0].Key)
			for _, g := range op.Commit.Guards {
				in.guards = append(in.guards, place{at(g.Key), g.Value})
			}
			for _, w := range op.Commit.Writes {
				in.writes = append(in.writes, place{at(w.Key), w.Value})
			}
		case op.Get != "":
			name, in.get = group(op.Get), at(op.Get)
		default:
			if name = group(op.List); name == "" {
				continue
			}
		}
		for _, item := range op.Items {
			out.found[at(item.Key)] = item.Value
		}
		groups[name] = append(groups[name], porcupine.Operation{
			ClientId: op.Client, Input: in, Call: int64(op.Call), Output: out, Return: int64(op.settled()),
		})
	}
	return groups
}

// neverApplied says of a commit with unknown outcome that no change came of it,
// as a complete log shows for values, which are unique.
func neverApplied(op *Op, written map[string]bool) bool {
	for _, w := range op.Commit.Writes {
		if w.Value == "" || written[w.Value] {
			return false
		}
	}
	return true
}

var model = porcupine.Model{
	Init: func() any { return values{} },
	Step: func(s, i, o any) (bool, any) {
		state, in, out := s.(values), i.(input), o.(output)
		if in.op.Commit == nil {
			if in.get == all {
				return state == out.found, state
			}
			return state[in.get] == out.found[in.get], state
		}
		holds := !slices.ContainsFunc(in.guards, func(g place) bool { return state[g.at] != g.value })
		next := state
		for _, w := range in.writes {
			next[w.at] = w.value
		}
		switch {
		case out.outcome == Failed:
			return !holds, state
		case holds:
			return true, next
		default:
			return out.outcome == Unknown, state
		}
	},
	Hash: func(s any) uint64 {
		return maphash.Comparable(seed, s.(values))
	},
	DescribeOperation: func(i, _ any) string { return i.(input).op.String() },
	DescribeState:     func(s any) string { return fmt.Sprintf("%q", s.(values)) },
}

var seed = maphash.MakeSeed()
