package scheduler

import (
	"context"
	"errors"
	"fmt"

	"github.com/musterhq/muster/control/store"
)

// Algorithm is which of the nodes that can take a pod is the better one by what is
// left there.
type Algorithm string

const (
	// Spread prefers nodes with more left; upstream's LeastAllocated. What is not
	// set is this.
	Spread Algorithm = "spread"
	// BinPack prefers nodes with less left, so that others stay empty; upstream's
	// MostAllocated. All other scores stay: pods of one service are spread all the
	// same, where there is a choice.
	BinPack Algorithm = "binpack"
)

// ErrNoAlgorithm is a name of none.
var ErrNoAlgorithm = fmt.Errorf("there are the algorithms %s and %s", Spread, BinPack)

// algorithmRecord is where the store keeps the algorithm, unless it is Spread.
const algorithmRecord = "scheduler-algorithm"

// Algorithms sets the cluster's algorithm, whoever leads. Any control node may use
// it; it holds from the leader's next decision on and moves no pod.
type Algorithms struct{ Store *store.Store }

// Get says what this replica knows. What a later version may have written there is
// Spread to this one.
func (a Algorithms) Get() Algorithm {
	value, _, err := a.Store.System().Get(algorithmRecord)
	if err == nil && Algorithm(value) == BinPack {
		return BinPack
	}
	return Spread
}

// Set sets it. To set what is set is no error.
func (a Algorithms) Set(ctx context.Context, to Algorithm) error {
	switch to {
	case Spread:
		err := a.Store.System().Delete(ctx, algorithmRecord, 0)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	case BinPack:
		_, err := a.Store.System().Create(ctx, algorithmRecord, []byte(to))
		if errors.Is(err, store.ErrExists) {
			_, err = a.Store.System().Update(ctx, algorithmRecord, []byte(to), 0)
		}
		return err
	}
	return fmt.Errorf("%q: %w", to, ErrNoAlgorithm)
}
