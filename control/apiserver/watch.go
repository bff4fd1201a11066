package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/store"
)

const (
	// bookmarkEvery is how often a client that asked for bookmarks learns how
	// far it has come, if nothing else tells it: upstream's.
	bookmarkEvery = time.Minute
	// slowClient is how long one write to a client may take. What a watch holds
	// for a client that does not read is one buffer, and not for longer.
	slowClient = 30 * time.Second
	// watchRest is how long a watch goes on when its kind has ceased to be.
	watchRest = time.Second
	// watchBuffer is how much is sent at once.
	watchBuffer = 32 << 10
	// A client is told of changes at once, as long as there are few. After
	// gatherAfter times in quick succession it is told each gatherEvery of what has
	// come together, as each time costs as much as a hundred kilobytes.
	gatherAfter = 8
	gatherEvery = 5 * time.Millisecond
)

// watch tells a client of changes as they happen.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartial, asPartialList)
	if err != nil {
		return err
	}
	if out.media == mediaYAML {
		return statusError(http.StatusNotAcceptable, "NotAcceptable", "only the following media types are accepted: "+mediaJSON+", "+mediaProtobuf)
	}
	options, err := listOptions(r, c.kind)
	if err != nil {
		return err
	}
	if c.name != "" {
		// /watch/pods/NAME: of that object alone.
		named := fields.OneTermEqualSelector("metadata.name", c.name)
		if options.FieldSelector != nil {
			named = fields.AndSelectors(options.FieldSelector, named)
		}
		options.FieldSelector = named
	}
	encoder, err := s.newEventEncoder(r, c.kind, out)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.watchDuration(options))
	defer cancel()
	if c.kind.Schema != nil {
		// What happened before is told first.
		stop := context.AfterFunc(c.kind.Schema.Until(), func() { time.AfterFunc(watchRest, cancel) })
		defer stop()
	}

	start, err := s.startWatch(ctx, c, options)
	if err != nil && !apierrors.IsResourceExpired(err) {
		return err
	}
	stream := newEventStream(w, encoder, s.metrics.watchEvents.WithLabelValues(c.group, c.version, c.resource),
		s.metrics.watchSizes.WithLabelValues(c.group, c.version, c.resource), s.slowClient)
	defer stream.end()
	stream.begin()
	if err != nil {
		// Upstream tells an expired watch so in the stream.
		status, _ := s.statusOf(err)
		_ = stream.failed(&status)
		return nil
	}
	if err := start.run(ctx, stream); err != nil && ctx.Err() == nil {
		if status, ok := expiredStatus(err); ok {
			_ = stream.failed(status)
			return nil
		}
		s.log.Debug("watch ended", "path", r.URL.Path, "error", err)
	}
	return nil
}

func (s *Server) watchDuration(options metainternalversion.ListOptions) time.Duration {
	if options.TimeoutSeconds != nil && *options.TimeoutSeconds > 0 {
		return time.Duration(*options.TimeoutSeconds) * time.Second
	}
	return time.Duration(float64(s.watchTimeout) * (1 + rand.Float64()))
}

// watching is a watch that is ready to be told.
type watching struct {
	events *store.Watch
	// initial are told first, as if they were added now.
	initial   store.Page
	bookmarks bool
	// endOfInitial asks for the bookmark that says that initial is through.
	endOfInitial bool
}

// startWatch reads what is to be told first and subscribes to what comes after.
//
//	sendInitialEvents=true     the state, a bookmark, changes
//	no resourceVersion, or 0   the state, changes
//	a resourceVersion          changes since then
func (s *Server) startWatch(ctx context.Context, c *call, options metainternalversion.ListOptions) (*watching, error) {
	table := s.store.Table(c.kind.Spec)
	wanted := store.WatchOptions{Namespace: c.namespace, Labels: options.LabelSelector, Fields: options.FieldSelector}
	started := &watching{bookmarks: options.AllowWatchBookmarks}
	initial := options.SendInitialEvents != nil && *options.SendInitialEvents
	version := options.ResourceVersion
	switch {
	case initial, options.SendInitialEvents == nil && (version == "" || version == "0"):
		if err := s.current(ctx, version); err != nil {
			return nil, err
		}
		page, err := table.List(ctx, store.ListOptions{Namespace: c.namespace, Labels: options.LabelSelector, Fields: options.FieldSelector})
		if err != nil {
			return nil, err
		}
		started.initial, wanted.After = page, page.Revision
		started.endOfInitial = initial && options.AllowWatchBookmarks
	case version == "" || version == "0":
		if err := s.current(ctx, version); err != nil {
			return nil, err
		}
		wanted.After = s.store.Revision()
	default:
		var err error
		if wanted.After, err = parseRevision(version); err != nil {
			return nil, err
		}
	}
	var err error
	started.events, err = table.Watch(ctx, wanted)
	if errors.Is(err, store.ErrExpired) {
		return nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", wanted.After, s.store.Revision()))
	}
	return started, err
}

func expiredStatus(err error) (*metav1.Status, bool) {
	if !errors.Is(err, store.ErrExpired) {
		return nil, false
	}
	status := apierrors.NewResourceExpired("too old resource version: the watch fell behind what is kept of past changes; list again").Status()
	return &status, true
}

// run tells events until ctx ends, the client goes away, or events are lost.
func (g *watching) run(ctx context.Context, stream *eventStream) error {
	for _, item := range g.initial.Items {
		if err := stream.event(store.Event{Type: watch.Added, Item: item}); err != nil {
			return err
		}
	}
	if g.endOfInitial {
		if err := stream.bookmark(g.initial.Revision, true); err != nil {
			return err
		}
	}
	// The list is told; a watch that lasts must not hold on to it.
	g.initial.Items = nil
	// Also when there was none: clients wait for the header, not for an event.
	if err := stream.flush(); err != nil {
		return err
	}
	bookmark := time.Now().Add(bookmarkEvery)
	waiting, cancel := g.untilBookmark(ctx, bookmark)
	defer func() { cancel() }()
	var pace pace
	for {
		events, reached, err := g.events.Next(waiting)
		late := waiting.Err() != nil
		switch {
		case err == nil:
			for _, event := range events {
				if err := stream.event(event); err != nil {
					return err
				}
			}
		case late && g.bookmarks && errors.Is(err, context.DeadlineExceeded):
			// Also just before the end: the next watch starts from here.
			if err := stream.bookmark(reached, false); err != nil {
				return err
			}
			bookmark = time.Now().Add(bookmarkEvery)
			cancel()
			waiting, cancel = g.untilBookmark(ctx, bookmark)
		}
		if err := stream.flush(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !late {
			return err
		}
		pace.wait(waiting)
	}
}

// untilBookmark bounds a wait for events by when the next bookmark is due.
func (g *watching) untilBookmark(ctx context.Context, at time.Time) (context.Context, context.CancelFunc) {
	if !g.bookmarks {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, at)
}

// pace keeps a watch from sending too often.
type pace struct{ due time.Time }

// wait is called after each time, and returns at once unless there were many.
func (p *pace) wait(ctx context.Context) {
	now := time.Now()
	if begin := now.Add(-gatherAfter * gatherEvery); p.due.Before(begin) {
		p.due = begin
	}
	p.due = p.due.Add(gatherEvery)
	if p.due.Before(now) {
		return
	}
	select {
	case <-time.After(p.due.Sub(now)):
	case <-ctx.Done():
	}
}
