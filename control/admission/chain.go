package admission

import (
	"context"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/resource"
)

// chain asks the checks that are built in and then the hooks that users have
// configured, each in its order, as upstream has it; the first error is the
// answer. Without hooks nothing is made for them.
type chain struct {
	checks     []resource.Admission
	mutators   []mutator
	validators []validator
	// last has its word once the object is final and nobody objects.
	last resource.Admission
}

// mutator is a family of hooks that may change objects.
type mutator interface {
	// Mutating says whether there are any.
	Mutating() (bool, error)
	Admit(ctx context.Context, r *hook.Request) error
}

// validator is a family of hooks that may refuse objects.
type validator interface {
	// Validating says whether there are any.
	Validating() (bool, error)
	Validate(ctx context.Context, r *hook.Request) error
}

// Admit goes round once more when a hook has changed the object: the checks may
// have to say something about it, and so may hooks that ask for it.
func (c *chain) Admit(ctx context.Context, a *resource.Attributes) error {
	var r *hook.Request
	for {
		for _, check := range c.checks {
			if err := check.Admit(ctx, a); err != nil {
				return err
			}
		}
		if hook.Unhooked(a) {
			return nil
		}
		for _, m := range c.mutators {
			some, err := m.Mutating()
			if err != nil {
				return err
			}
			if !some {
				continue
			}
			if r == nil {
				r = hook.NewRequest(ctx, a)
			}
			if err := m.Admit(ctx, r); err != nil {
				return err
			}
		}
		if r == nil {
			return nil
		}
		if round := r.GetReinvocationContext(); round.ShouldReinvoke() && !round.IsReinvoke() {
			round.SetIsReinvoke()
			continue
		}
		return nil
	}
}

func (c *chain) Validate(ctx context.Context, a *resource.Attributes) error {
	for _, check := range c.checks {
		if err := check.Validate(ctx, a); err != nil {
			return err
		}
	}
	if !hook.Unhooked(a) {
		if err := c.ask(ctx, a); err != nil {
			return err
		}
	}
	return c.last.Validate(ctx, a)
}

// ask asks the hooks that may refuse.
func (c *chain) ask(ctx context.Context, a *resource.Attributes) error {
	var r *hook.Request
	for _, v := range c.validators {
		some, err := v.Validating()
		if err != nil {
			return err
		}
		if !some {
			continue
		}
		if r == nil {
			r = hook.NewRequest(ctx, a)
		}
		if err := v.Validate(ctx, r); err != nil {
			return err
		}
	}
	return nil
}
