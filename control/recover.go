package control

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/backup"
	"github.com/musterhq/muster/fsm"
)

// Recovery is what a stopped control node holds, and who would be left behind.
type Recovery struct {
	*consensus.Recovery
	Revision uint64
	Kinds    []backup.Kind
	// Done: the node is a cluster of its own now.
	Done bool
}

// Recover makes the stopped control node in dir a cluster of its own, if
// confirm is its name; with an empty confirm it only says what it would do.
func Recover(dir, confirm string, log *slog.Logger) (*Recovery, error) {
	machine := fsm.New(fsm.Config{HistoryEvents: 1})
	found, err := consensus.Recover(consensus.Offline{Dir: dir, StateMachine: machine, Logger: log}, false)
	if err != nil {
		return nil, err
	}
	r := &Recovery{Recovery: found, Revision: machine.Revision(), Kinds: backup.Kinds(machine)}
	switch confirm {
	case "":
		return r, nil
	case found.Name:
	default:
		return r, fmt.Errorf("confirm: %s holds node %q, not %q; nothing was changed", dir, found.Name, confirm)
	}
	again, err := consensus.Recover(consensus.Offline{Dir: dir, StateMachine: fsm.New(fsm.Config{HistoryEvents: 1}), Logger: log}, true)
	if err != nil {
		return r, err
	}
	if again.LastIndex != found.LastIndex || again.LastTerm != found.LastTerm {
		return r, errors.New("the node's log changed meanwhile: look at it again before you start it")
	}
	r.Done = true
	return r, nil
}
