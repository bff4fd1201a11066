package controller

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/store"
)

// Follow tells each object of a kind that is selected, and then each change, as
// they are stored, until ctx ends, which is no error. It is for controllers that look at
// few objects of a kind with many, or with secrets in them, and so want no
// Cache. After a gap in the history all objects are told again, and those that
// went meanwhile are not.
func Follow(ctx context.Context, table *store.Table, selector fields.Selector, told func(store.Event)) error {
	for {
		err := follow(ctx, table, selector, told)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, store.ErrExpired):
			return fmt.Errorf("follow %s: %w", table.Spec().Resource, err)
		}
	}
}

func follow(ctx context.Context, table *store.Table, selector fields.Selector, told func(store.Event)) error {
	page, err := table.List(ctx, store.ListOptions{Fields: selector})
	if err != nil {
		return err
	}
	watch, err := table.Watch(ctx, store.WatchOptions{Fields: selector, After: page.Revision})
	if err != nil {
		return err
	}
	for _, item := range page.Items {
		told(store.Event{Type: apiwatch.Added, Item: item})
	}
	for {
		events, _, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			told(e)
		}
	}
}
