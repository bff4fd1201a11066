package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// slowLog takes entries and commits them when told to.
type slowLog struct {
	mu      sync.Mutex
	entries []envelope
	futures []*slowFuture
}

type slowFuture struct {
	done chan struct{}
	out  outcome
	err  error
}

func (f *slowFuture) Error() error  { <-f.done; return f.err }
func (f *slowFuture) Response() any { return f.out }
func (f *slowFuture) Index() uint64 { return f.out.index }

func (l *slowLog) apply(data []byte) raft.ApplyFuture {
	e, err := decodeEnvelope(data)
	if err != nil {
		panic(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &slowFuture{done: make(chan struct{})}
	l.entries, l.futures = append(l.entries, e), append(l.futures, f)
	return f
}

func (l *slowLog) taken() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// settle ends entry i.
func (l *slowLog) settle(i int, out outcome, err error) {
	l.mu.Lock()
	f := l.futures[i]
	l.mu.Unlock()
	f.out, f.err = out, err
	close(f.done)
}

type proposing struct {
	*proposer
	log     *slowLog
	refused chan error
	end     context.CancelFunc
	ended   chan struct{}
	waiters *tasks
}

func newProposing(t *testing.T) *proposing {
	ctx, cancel := context.WithCancel(context.Background())
	p := &proposing{log: &slowLog{}, refused: make(chan error, queueCommandsMax+1), end: cancel, ended: make(chan struct{}), waiters: &tasks{}}
	p.proposer = newProposer(5, p.log.apply, func(outcome, bool) {}, newMetrics(), p.waiters)
	go func() {
		defer close(p.ended)
		p.run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-p.ended; p.waiters.running.Wait() })
	return p
}

func (p *proposing) add(t *testing.T, data []byte) {
	t.Helper()
	if err := p.submit(submission{command{data: data}, func(err error) { p.refused <- err }}); err != nil {
		t.Fatal(err)
	}
}

// occupy has as many entries on their way as may be, and says how many commands they have.
func (p *proposing) occupy(t *testing.T) (commands int) {
	t.Helper()
	for i := range entriesInFlightMax {
		for range 1 + min(i, 1)*furtherCommandsMin {
			p.add(t, fmt.Append(nil, i))
			commands++
		}
		p.until(t, "an entry", func() bool { return p.log.taken() == i+1 })
	}
	return commands
}

func (p *proposing) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	(&cluster{TB: t}).eventually(what, holds)
}

// What arrives while entries are on their way goes into one entry together.
func TestGroupsFormWhileEntriesAreOnTheirWay(t *testing.T) {
	p := newProposing(t)
	p.occupy(t)
	const more = 100
	for i := range more {
		p.add(t, fmt.Append(nil, i))
	}
	time.Sleep(10 * time.Millisecond)
	if got := p.log.taken(); got != entriesInFlightMax {
		t.Fatalf("%d entries on their way, want at most %d", got, entriesInFlightMax)
	}
	p.log.settle(0, outcome{term: 5}, nil)
	p.until(t, "the next entry", func() bool { return p.log.taken() == entriesInFlightMax+1 })
	e := p.log.entries[entriesInFlightMax]
	if len(e.commands) != more || e.term != 5 {
		t.Errorf("%d commands for term %d, want %d for term 5", len(e.commands), e.term, more)
	}
	for i, c := range e.commands {
		if string(c.data) != fmt.Sprint(i) {
			t.Fatalf("command %d is %q", i, c.data)
		}
	}
	for i := 1; i <= entriesInFlightMax; i++ {
		p.log.settle(i, outcome{term: 5}, nil)
	}
}

// While one entry is on its way, the next waits for company.
func TestFewCommandsWaitForTheEntryBefore(t *testing.T) {
	p := newProposing(t)
	p.add(t, nil)
	p.until(t, "the first entry", func() bool { return p.log.taken() == 1 })
	for range furtherCommandsMin {
		p.add(t, nil)
	}
	time.Sleep(10 * time.Millisecond)
	if got := p.log.taken(); got != 1 {
		t.Fatalf("%d entries on their way, want one", got)
	}
	p.add(t, nil)
	p.until(t, "an entry of enough commands", func() bool { return p.log.taken() == 2 })
	p.add(t, nil)
	p.log.settle(0, outcome{term: 5}, nil)
	p.log.settle(1, outcome{term: 5}, nil)
	p.until(t, "an entry when none is on its way", func() bool { return p.log.taken() == 3 })
	p.add(t, make([]byte, furtherBytesMin))
	p.until(t, "an entry of enough bytes", func() bool { return p.log.taken() == 4 })
	p.log.settle(2, outcome{term: 5}, nil)
	p.log.settle(3, outcome{term: 5}, nil)
}

func TestGroupsAreBounded(t *testing.T) {
	p := newProposing(t)
	occupied := p.occupy(t)
	big := make([]byte, envelopeBytesMax/3)
	for range 6 {
		p.add(t, big)
	}
	for range 2 * envelopeCommandsMax {
		p.add(t, nil)
	}
	for settled, commands := 0, 0; commands < occupied+6+2*envelopeCommandsMax; settled++ {
		p.until(t, "an entry", func() bool { return p.log.taken() > settled })
		p.log.mu.Lock()
		commands += len(p.log.entries[settled].commands)
		p.log.mu.Unlock()
		p.log.settle(settled, outcome{term: 5}, nil)
	}
	for i, e := range p.log.entries {
		bytes := 0
		for _, c := range e.commands {
			bytes += c.size()
		}
		if len(e.commands) > envelopeCommandsMax || bytes > envelopeBytesMax {
			t.Errorf("entry %d has %d commands of %d bytes", i, len(e.commands), bytes)
		}
	}
}

func TestFullQueueIsBusy(t *testing.T) {
	p := newProposing(t)
	p.occupy(t)
	p.add(t, nil)
	p.until(t, "the first is taken from the queue", func() bool { return len(p.queue) == 0 })
	for range queueCommandsMax {
		p.add(t, nil)
	}
	if err := p.submit(submission{}); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v, want %v", err, ErrBusy)
	}
	p.end()
	<-p.ended
	for i := range entriesInFlightMax {
		p.log.settle(i, outcome{term: 5}, nil)
	}
	for range queueCommandsMax + 1 {
		if err := <-p.refused; !errors.Is(err, ErrNotLeader) {
			t.Fatalf("refused with %v at the end of the term, want %v", err, ErrNotLeader)
		}
	}
	if err := p.submit(submission{}); !errors.Is(err, ErrNotLeader) {
		t.Errorf("after the term: %v, want %v", err, ErrNotLeader)
	}
}

// Only what cannot be in the log may be sent again.
func TestWhatBecomesOfAnEntry(t *testing.T) {
	for _, test := range []struct {
		name string
		out  outcome
		err  error
		want []error
	}{
		{"applied", outcome{term: 5}, nil, nil},
		{"of another term", outcome{term: 6, late: true}, nil, []error{ErrNotLeader}},
		{"not accepted", outcome{}, raft.ErrNotLeader, []error{ErrNotLeader}},
		{"in a transfer", outcome{}, raft.ErrLeadershipTransferInProgress, []error{ErrNotLeader}},
		{"leadership lost", outcome{}, raft.ErrLeadershipLost, []error{errLost}},
		{"shut down", outcome{}, raft.ErrRaftShutdown, []error{errLost}},
		{"disk failed", outcome{}, errors.New("fsync"), []error{errLost}},
		{"state machine failed", outcome{failed: errors.New("unknown command")}, nil, []error{errLost}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProposing(t)
			p.add(t, nil)
			p.until(t, "an entry", func() bool { return p.log.taken() == 1 })
			p.log.settle(0, test.out, test.err)
			p.end()
			<-p.ended
			p.waiters.running.Wait()
			close(p.refused)
			var got []error
			for err := range p.refused {
				got = append(got, err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("refused with %v, want %v", got, test.want)
			}
		})
	}
}
