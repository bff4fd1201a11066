package backup

import (
	"bufio"
	"io"
	"slices"
	"strings"

	"github.com/musterhq/muster/fsm"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Report is what a file holds.
type Report struct {
	// Cluster holds the keys, too: nobody should print it whole.
	Cluster   *clusterv1.ClusterIdentity
	Encrypted bool
	Revision  uint64
	Kinds     []Kind // in order of their names
}

// Kind is the part of the state below one first segment of keys: "pods" of
// "pods/default/web".
type Kind struct {
	Name  string
	Count int
	Bytes int64 // of keys and values
}

// Inspect reads a whole file and says what it holds. It checks all that a
// restore would: the state is built in memory.
func Inspect(from io.Reader, passphrase []byte) (*Report, error) {
	buffered := bufio.NewReader(from)
	opening, _ := buffered.Peek(openingLen) // Read finds out if there is none
	machine := fsm.New(fsm.Config{HistoryEvents: 1})
	cluster, err := Read(buffered, passphrase, machine.Restore)
	if err != nil {
		return nil, err
	}
	return &Report{
		Cluster: cluster, Encrypted: opening[openingLen-1] == encrypted,
		Revision: machine.Revision(), Kinds: Kinds(machine),
	}, nil
}

// Kinds counts what a machine has.
func Kinds(machine *fsm.Machine) []Kind {
	var kinds []Kind
	byName := map[string]*Kind{}
	for item := range machine.View().Range("", "") {
		name, _, _ := strings.Cut(item.Key, "/")
		kind := byName[name]
		if kind == nil {
			kind = &Kind{Name: name}
			byName[name] = kind
		}
		kind.Count++
		kind.Bytes += int64(len(item.Key) + len(item.Value))
	}
	for _, kind := range byName {
		kinds = append(kinds, *kind)
	}
	slices.SortFunc(kinds, func(a, b Kind) int { return strings.Compare(a.Name, b.Name) })
	return kinds
}
