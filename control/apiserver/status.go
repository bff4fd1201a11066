package apiserver

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/store"
)

// Failures names the errors of the log below the store, which this package must
// not import. Each list is one row of the table by which they are told to
// clients.
type Failures struct {
	// Unavailable: nothing was written, and trying again soon, here or at
	// another control node, may work.
	Unavailable []error
	// OutcomeUnknown: it may have been written, now or a little later.
	OutcomeUnknown []error
	// TooLarge: it will never be written.
	TooLarge []error
	// NoSpace: nothing was written, and will not be until there is room on the
	// control nodes' disks.
	NoSpace []error
	// NodeUnreachable: there is no way to a node's agent (Streams).
	NodeUnreachable []error
}

// failure is how one kind of error is answered.
type failure struct {
	is         []error
	code       int32
	reason     metav1.StatusReason
	message    string
	retryAfter int32
}

// failureTable is read from the top; the first row that matches counts. An
// outcome that is unknown carries no Retry-After: client-go would send a write
// again by itself, and a create that had worked would then be told to exist.
func failureTable(f Failures) []failure {
	return []failure{
		{[]error{store.ErrExpired}, http.StatusGone, metav1.StatusReasonExpired,
			"The resourceVersion or continue parameter is too old; start again without it", 0},
		{f.TooLarge, http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge,
			"the object is too large to be stored", 0},
		{f.OutcomeUnknown, http.StatusGatewayTimeout, metav1.StatusReasonTimeout,
			"the request was sent to the cluster's leader and no answer came: whether it took effect is not known, read the object before trying again", 0},
		{[]error{auth.ErrTooManyRefusals}, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests,
			"Too many requests, please try again later.", 1},
		{append([]error{errNotCurrent, auth.ErrUncertain}, f.Unavailable...), http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
			"this control node cannot reach a quorum of the cluster", 1},
		// No Retry-After: space does not come back by waiting a second.
		{f.NoSpace, http.StatusInsufficientStorage, reasonNoSpace,
			"nothing can be stored", 0},
		{f.NodeUnreachable, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
			"the pod's node cannot be reached", 0},
		{[]error{store.ErrInvalid}, http.StatusBadRequest, metav1.StatusReasonBadRequest,
			"the request is not valid", 0},
		{[]error{context.DeadlineExceeded}, http.StatusGatewayTimeout, metav1.StatusReasonTimeout,
			"the request did not finish in time: whether it took effect is not known", 0},
		{[]error{context.Canceled}, statusClientClosedRequest, metav1.StatusReasonTimeout,
			"the client went away", 0},
	}
}

// reasonNoSpace has no name in Kubernetes, whose own storage answers it with 500.
const reasonNoSpace metav1.StatusReason = "InsufficientStorage"

// statusClientClosedRequest is nginx's number for a request that nobody waits
// for any more; only logs and metrics see it.
const statusClientClosedRequest = 499

// statusOf is the Status that err is answered with. An error that says nothing
// about itself is a fault of ours: it is logged by the caller, and known is
// false.
func (s *Server) statusOf(err error) (status metav1.Status, known bool) {
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		status = api.Status()
		if status.Status == "" {
			status.Status = metav1.StatusFailure
		}
		if status.Code == 0 {
			status.Code = http.StatusInternalServerError
		}
		status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		return status, status.Reason != metav1.StatusReasonInternalError
	}
	for _, row := range s.failures {
		for _, candidate := range row.is {
			if errors.Is(err, candidate) {
				return newStatus(row.code, row.reason, row.message+": "+err.Error(), row.retryAfter), true
			}
		}
	}
	return newStatus(http.StatusInternalServerError, metav1.StatusReasonInternalError, "Internal error occurred: "+err.Error(), 0), false
}

func newStatus(code int32, reason metav1.StatusReason, message string, retryAfter int32) metav1.Status {
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure,
		Code:     code,
		Reason:   reason,
		Message:  message,
	}
	if retryAfter > 0 {
		status.Details = &metav1.StatusDetails{RetryAfterSeconds: retryAfter}
	}
	return status
}

func statusError(code int32, reason metav1.StatusReason, message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: newStatus(code, reason, message, 0)}
}

// errNotCurrent means that this node could not make sure in time that it has seen
// every acknowledged write.
var errNotCurrent = errors.New("no answer from the leader")

// errPathNotFound is upstream's answer to a path that nothing serves.
var errPathNotFound = statusError(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")

// errTooManyRequests is the answer at the bound of requests in flight.
var errTooManyRequests = &apierrors.StatusError{ErrStatus: newStatus(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests,
	"Too many requests, please try again later.", 1)}

// fail answers with err, in the form that the client reads.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, known := s.statusOf(err)
	if !known {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if rec, ok := w.(*recorder); ok {
		rec.event.Answered(&status, statusKind)
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	out, negotiation := negotiate(r)
	if negotiation != nil {
		out = plain
	}
	body, err := encodeAs(&status, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, out)
	if err != nil {
		http.Error(w, status.Message, int(status.Code))
		return
	}
	s.write(w, r, int(status.Code), out.media, body)
}
