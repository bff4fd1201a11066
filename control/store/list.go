package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/fsm"
	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
)

// ListOptions say what to list. The zero value is everything.
type ListOptions struct {
	Namespace string          // "": all
	Labels    labels.Selector // nil: all
	Fields    fields.Selector // nil: all
	Limit     int64           // 0: none
	Continue  string          // from the page before; Namespace and selectors must be the same
	// Revision lists the state at exactly this revision, ErrExpired if it is
	// not kept any more or not reached yet. 0: the newest of this replica, or
	// that of Continue.
	Revision uint64
}

// Page is a part of a list, in ascending order of keys.
type Page struct {
	Items    []*kv.Item
	Revision uint64 // of the whole list, the same on all its pages
	Continue string // what to ask for the next page with, "" on the last
	// Remaining is how many objects follow this page, 0 when that is not
	// known: with selectors nobody counts.
	Remaining int64
}

// ExpiredError is the ErrExpired of a list that cannot be continued at its
// revision. With Continue it goes on where it was, at the newest revision.
type ExpiredError struct{ Continue string }

func (e *ExpiredError) Error() string        { return "the list's revision is not kept any more" }
func (e *ExpiredError) Is(target error) bool { return target == ErrExpired }

// List returns the objects that are selected, or the first Limit of them. A
// list can be continued on any node, for as long as that node remembers the
// changes of this kind since.
func (t *Table) List(ctx context.Context, opts ListOptions) (Page, error) {
	selection, err := t.selects(opts.Namespace, opts.Labels, opts.Fields)
	if err != nil {
		return Page{}, err
	}
	from := position{Revision: opts.Revision}
	if opts.Continue != "" {
		if from, err = parsePosition(opts.Continue, selection.prefix); err != nil {
			return Page{}, err
		}
	}
	view, page, more, err := t.collectAt(ctx, &selection, from, opts.Limit)
	if err != nil || !more {
		return page, err
	}
	next := position{Revision: view.Revision(), After: page.Items[len(page.Items)-1].Key, Since: from.Since}
	if from.Revision == 0 || opts.Continue == "" {
		next.Since = time.Now().Unix()
	}
	if selection.all() {
		switch {
		case from.Remaining != 0:
		case from.After == "":
			from.Remaining = int64(view.Count(selection.prefix))
		default: // the newest state is gone on with where an older one ended
			for range view.Range(selection.prefix, from.After+"\x00") {
				from.Remaining++
			}
		}
		page.Remaining = max(from.Remaining-int64(len(page.Items)), 1)
		next.Remaining = page.Remaining
	}
	page.Continue = next.String()
	return page, nil
}

// collectAt reads a page, and the view that it is of.
func (t *Table) collectAt(ctx context.Context, selection *selection, from position, limit int64) (view *kv.View, page Page, more bool, err error) {
	for {
		if view, err = t.store.viewAt(selection.prefix, from); err != nil {
			return nil, Page{}, false, fmt.Errorf("list %s: %w", selection.prefix, err)
		}
		page, more, err = collect(ctx, view, selection, from.After, limit)
		if err == nil && t.spec.Sealed {
			err = t.openAll(page.Items, from)
		}
		// A key that went since the view was taken went because nothing newer
		// needs it. One that the view's own keyring has not is lost.
		if !errors.Is(err, keyring.ErrNoKey) || t.store.latestRing(view) {
			return view, page, more, err
		}
	}
}

// openAll opens the items of a page in place. What is in the past may be sealed
// with a key that was removed since.
func (t *Table) openAll(items []*kv.Item, from position) (err error) {
	for i, item := range items {
		if items[i], err = t.store.open(t.spec, item); err != nil {
			break
		}
	}
	if from.Revision != 0 && errors.Is(err, keyring.ErrNoKey) {
		return from.expired()
	}
	return err
}

// collect walks a view from after a key until limit items are found; more says
// that there is at least one further.
func collect(ctx context.Context, view *kv.View, s *selection, after string, limit int64) (page Page, more bool, err error) {
	page.Revision = view.Revision()
	if s.key != "" {
		if item := view.Get(s.key); s.matches(item) && item.Key > after {
			page.Items = []*kv.Item{item}
		}
		return page, false, nil
	}
	start := ""
	if after != "" {
		start = after + "\x00"
	}
	looked := 0
	for item := range view.Range(s.prefix, start) {
		if looked++; looked%4096 == 0 && ctx.Err() != nil {
			return Page{}, false, ctx.Err()
		}
		if !s.matches(item) {
			continue
		}
		if limit > 0 && int64(len(page.Items)) == limit {
			return page, true, nil
		}
		page.Items = append(page.Items, item)
	}
	return page, false, nil
}

// viewAt returns the state that a list is read from.
func (s *Store) viewAt(prefix string, p position) (*kv.View, error) {
	if p.Revision == 0 {
		return s.machine.View(), nil
	}
	if p.Since != 0 && time.Since(time.Unix(p.Since, 0)) > continueMax {
		return nil, p.expired()
	}
	view, err := s.machine.ViewAt(prefix, p.Revision)
	if errors.Is(err, watch.ErrCompacted) || errors.Is(err, fsm.ErrAhead) {
		return nil, p.expired()
	}
	return view, err
}

// continueMax is how long a list can be continued at its revision. The history
// may be gone earlier under load, and a kind that nobody changes would have its
// past for ever; but a client should meet the end of a token in its tests, not
// on a busy day. kube-apiserver's are good for 5 to 10 minutes.
const continueMax = 8 * time.Minute

// position is where a list goes on, opaque to clients.
type position struct {
	Revision  uint64 `json:"rv"` // 0: the newest
	After     string `json:"after"`
	Remaining int64  `json:"remaining,omitempty"` // 0: nobody counted
	Since     int64  `json:"since,omitempty"`     // when the first page was given, Unix seconds
}

// expired is the error of who cannot go on at p's revision, but could at the
// newest.
func (p position) expired() error {
	if p.After == "" {
		return &ExpiredError{}
	}
	return &ExpiredError{Continue: position{After: p.After}.String()}
}

func (p position) String() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parsePosition reads what a client sent: it must stay within its list.
func parsePosition(token, prefix string) (position, error) {
	var p position
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return position{}, fmt.Errorf("%w: continue token: %w", ErrInvalid, err)
	}
	if !strings.HasPrefix(p.After, prefix) || p.Remaining < 0 {
		return position{}, fmt.Errorf("%w: the continue token is of another list", ErrInvalid)
	}
	return p, nil
}
