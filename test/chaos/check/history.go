// Package check decides whether what clients saw of a store can have happened
// in one that keeps its promises: linearizable operations, guards that hold,
// transactions that are whole, revisions and watches that tell the same story
// on every node. It knows nothing of how the story came about.
package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Outcome is what the client knows of its operation.
type Outcome string

const (
	// OK: it was done, between call and return.
	OK Outcome = "ok"
	// Failed: a guard did not hold at some moment between call and return;
	// nothing was applied.
	Failed Outcome = "failed"
	// Refused: the server says that nothing was and nothing will be applied.
	Refused Outcome = "refused"
	// Unknown: it may have been applied, at any time after the call, even after
	// the client has given up; or never.
	Unknown Outcome = "unknown"
)

// Op is one operation of one client. Values are unique to their write and never
// empty; "" stands for a key that does not exist.
type Op struct {
	Client  int     `json:"client"`
	Node    string  `json:"node"`
	Process string  `json:"process,omitempty"` // which process of the node answered
	Outcome Outcome `json:"outcome"`
	Error   string  `json:"error,omitempty"`
	// Since the run began. Return counts only with OK and Failed.
	Call   time.Duration `json:"call"`
	Return time.Duration `json:"return"`

	// One of these.
	Get    string  `json:"get,omitempty"`  // a key
	List   string  `json:"list,omitempty"` // a prefix
	Commit *Commit `json:"commit,omitempty"`

	// Local reads the node's replica as it is.
	Local bool `json:"local,omitempty"`

	// What came back: of a read what was found, of both the store's revision,
	// of a commit that of each write. 0: not told.
	Items          []Item   `json:"items,omitempty"`
	Revision       uint64   `json:"revision,omitempty"`
	WriteRevisions []uint64 `json:"writeRevisions,omitempty"`
}

// Commit is a transaction: if all guards hold, all writes happen.
type Commit struct {
	Guards []Guard `json:"guards,omitempty"`
	Writes []Write `json:"writes"`
}

// Guard wants a key to be as it was when this client read it: at a revision,
// which is the same as having the value that the write of that revision gave it.
type Guard struct {
	Key      string `json:"key"`
	Revision uint64 `json:"revision"` // 0: absent
	Value    string `json:"value"`
}

// Write puts a value, or deletes with none.
type Write struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// Item is a key as it was read.
type Item struct {
	Key            string `json:"key"`
	Value          string `json:"value"`
	Revision       uint64 `json:"revision"`
	CreateRevision uint64 `json:"createRevision"`
}

// String tells an operation in one line.
func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d on %s, %v..%v: ", o.Client, o.Node, o.Call.Round(time.Millisecond), o.Return.Round(time.Millisecond))
	switch {
	case o.Commit != nil:
		b.WriteString("commit")
		for _, g := range o.Commit.Guards {
			fmt.Fprintf(&b, " if %s=%q@%d", g.Key, g.Value, g.Revision)
		}
		for i, w := range o.Commit.Writes {
			fmt.Fprintf(&b, " %s:=%q", w.Key, w.Value)
			if i < len(o.WriteRevisions) {
				fmt.Fprintf(&b, "@%d", o.WriteRevisions[i])
			}
		}
	default:
		if o.Local {
			b.WriteString("local ")
		}
		fmt.Fprintf(&b, "read %s%s at %d:", o.Get, o.List, o.Revision)
		for _, item := range o.Items {
			fmt.Fprintf(&b, " %s=%q@%d", item.Key, item.Value, item.Revision)
		}
	}
	fmt.Fprintf(&b, " -> %s", o.Outcome)
	if o.Error != "" {
		fmt.Fprintf(&b, " (%s)", o.Error)
	}
	return b.String()
}

// Save writes a history, one operation a line, as JSON.
func Save(w io.Writer, history []*Op) error {
	encoder := json.NewEncoder(w)
	for _, op := range history {
		if err := encoder.Encode(op); err != nil {
			return err
		}
	}
	return nil
}

// Violation is a promise that was broken.
type Violation struct {
	// Promise that was broken, one of the constants.
	Promise string
	// Detail says how it shows.
	Detail string
}

// The promises.
const (
	Linearizable = "linearizable" // an order of all operations explains what was read
	Undecided    = "undecided"    // whether there is such an order was not found out in time
	Durable      = "durable"      // what was acknowledged stays
	Refusal      = "refusal"      // what was refused is never applied
	Once         = "once"         // no write is applied twice, or without having been asked for
	Revisions    = "revisions"    // a revision names one change, and they follow real time
	Reads        = "reads"        // what a read finds is the state at the revision that it names
	Guards       = "guards"       // a commit is applied only where its guards hold
	Monotonic    = "monotonic"    // a node's local reads never go back
	Conserved    = "conserved"    // transactions are seen whole
	Watches      = "watches"      // complete, in order, each once, the same everywhere
	Replicas     = "replicas"     // all nodes end with the same state
	Available    = "available"    // without faults, it works again
	Alive        = "alive"        // no node ends but by a fault that must end it
)

func (v Violation) String() string { return v.Promise + ": " + v.Detail }

// report collects violations, a few of each promise: one bug shows many times.
type report struct {
	violations []Violation
	counts     map[string]int
}

const shownMax = 5

func (r *report) add(promise, format string, args ...any) {
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	r.counts[promise]++
	if r.counts[promise] <= shownMax {
		r.violations = append(r.violations, Violation{promise, fmt.Sprintf(format, args...)})
	}
}

func (r *report) result() []Violation {
	for promise, n := range r.counts {
		if n > shownMax {
			r.violations = append(r.violations, Violation{promise, fmt.Sprintf("and %d more of this kind", n-shownMax)})
		}
	}
	return r.violations
}
