package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/store"
)

const (
	// barrierTimeout is how long a read waits for the leader's word that this
	// replica is current before it says that there is no quorum.
	barrierTimeout = 1500 * time.Millisecond
	// revisionTimeout is how long a read waits for a revision that this replica
	// has not reached, as upstream.
	revisionTimeout = 3 * time.Second
	// jsonTimes is how much longer an object is in JSON than it is stored.
	jsonTimes = 2
)

// current returns once this replica is new enough for a read that names version:
// "" every acknowledged write, "0" anything, a number that revision or a later.
func (s *Server) current(ctx context.Context, version string) error {
	switch version {
	case "":
		return s.barrier(ctx)
	case "0":
		return nil
	}
	revision, err := parseRevision(version)
	if err != nil {
		return err
	}
	return s.reach(ctx, revision)
}

func (s *Server) barrier(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	err := s.store.ReadBarrier(waiting)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", errNotCurrent, err)
	}
	return err
}

// reach waits for a revision.
func (s *Server) reach(ctx context.Context, revision uint64) error {
	waiting, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	err := s.store.WaitRevision(waiting, revision)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		status := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", revision, s.store.Revision()), 1)
		status.ErrStatus.Details.Causes = []metav1.StatusCause{{
			Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
		}}
		return status
	}
	return err
}

func parseRevision(version string) (uint64, error) {
	revision, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, badRequest(fmt.Errorf("invalid resource version %q: %w", version, errors.Unwrap(err)))
	}
	return revision, nil
}

// newest is the object that a call names, as of every acknowledged write.
func (s *Server) newest(ctx context.Context, c *call) (store.Event, error) {
	if err := s.barrier(ctx); err != nil {
		return store.Event{}, err
	}
	return s.local(c)
}

// local is the object that a call names, as this replica has it.
func (s *Server) local(c *call) (store.Event, error) {
	item, _, err := s.store.Table(c.kind.Spec).GetItem(c.namespace, c.name)
	if errors.Is(err, store.ErrNotFound) {
		return store.Event{}, apierrors.NewNotFound(c.kind.Qualified(), c.name)
	}
	return store.Event{Type: watch.Added, Item: item}, err
}

// get answers one object.
func (s *Server) get(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartial)
	if err != nil {
		return err
	}
	options := metav1.GetOptions{}
	if err := decodeQuery(r.URL.Query(), &options); err != nil {
		return err
	}
	if err := s.current(r.Context(), options.ResourceVersion); err != nil {
		return err
	}
	found, err := s.local(c)
	if err != nil {
		return err
	}
	if c.kind.Scale != nil && c.subresource == "scale" {
		obj, err := store.Decode(c.kind.Spec, found.Item)
		if err != nil {
			return err
		}
		if c.kind.Scale.Missing != nil {
			if err := c.kind.Scale.Missing(obj); err != nil {
				return err
			}
		}
		out.as = ""
		return s.send(w, r, http.StatusOK, autoscalingv1.SchemeGroupVersion.WithKind("Scale"), c.kind.ScaleOf(obj), out)
	}
	decoded := out.as != "" || out.indent || audit.From(r.Context()).WantsAnswer()
	if out.media == mediaJSON && !decoded {
		body, err := appendStoredJSON(make([]byte, 0, jsonTimes*len(found.Item.Value)), c.kind.Spec, c.kind.Spec.Kind, found)
		if err != nil {
			return err
		}
		s.write(w, r, http.StatusOK, out.media, append(body, '\n'))
		return nil
	}
	if out.media == mediaProtobuf && !decoded && c.kind.Spec.Codec == nil {
		kind := c.kind.Spec.Kind
		body := appendEnvelopeHead(make([]byte, 0, store.RawSize(found.Item)+64), kind, store.RawSize(found.Item))
		s.write(w, r, http.StatusOK, out.media, appendEnvelopeTail(store.AppendRaw(body, found.Item)))
		return nil
	}
	obj, err := store.Decode(c.kind.Spec, found.Item)
	if err != nil {
		return err
	}
	return s.sendObject(w, r, http.StatusOK, c, obj, out)
}
