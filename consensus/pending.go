package consensus

import "sync"

// pending holds the proposals of this process that are on their way. An answer
// comes from the state machine when the command is applied here, through
// whichever leader it went.
type pending struct {
	mu       sync.Mutex
	sequence uint64
	byNumber map[uint64]*proposal
}

type proposal struct {
	sequence uint64
	command  []byte
	answered chan answer // room for one
	refused  chan error  // room for one; of the current route only

	route route // guarded by pending.mu
}

type answer struct {
	data []byte
	err  error
}

func newPending() *pending { return &pending{byNumber: map[uint64]*proposal{}} }

func (p *pending) add(cmd []byte) *proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sequence++
	it := &proposal{sequence: p.sequence, command: cmd, answered: make(chan answer, 1), refused: make(chan error, 1)}
	p.byNumber[it.sequence] = it
	return it
}

func (p *pending) remove(it *proposal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byNumber, it.sequence)
}

// sendBy says which route has the proposal now. Only that one can refuse it: a
// word from the one before, late or not yet read, must not start a second try
// beside the first.
func (p *pending) sendBy(it *proposal, r route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	it.route = r
	select {
	case <-it.refused:
	default:
	}
}

func (p *pending) answer(sequence uint64, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if it := p.byNumber[sequence]; it != nil {
		it.deliver(answer{data: data})
	}
}

func (p *pending) refuse(sequence uint64, from route, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if it := p.byNumber[sequence]; it != nil && it.route == from {
		select {
		case it.refused <- err:
		default:
		}
	}
}

// doubt tells all that their fate cannot be known here.
func (p *pending) doubt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, it := range p.byNumber {
		it.deliver(answer{err: ErrOutcomeUnknown})
	}
}

func (it *proposal) deliver(a answer) {
	select {
	case it.answered <- a:
	default:
	}
}
