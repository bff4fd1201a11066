package dispatch

import "context"

// workAtOnce is how many sessions open at one time, and how many store what their
// agents say. When thousands do at once, all of them are done late, and so is
// everything else in this process, such as hearing heartbeats; and meanwhile what
// the others have to say becomes one message instead of several.
const workAtOnce = 64

// turns are taken for such work.
type turns chan struct{}

func newTurns() turns { return make(turns, workAtOnce) }

// do calls work when it is its turn; it fails only with ctx, before.
func (t turns) do(ctx context.Context, work func()) error {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-t }()
	work()
	return nil
}
