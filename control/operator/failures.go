package operator

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Failures say what errors of the log are to a client. The first that matches counts.
type Failures []Failure

// Failure is one row.
type Failure struct {
	Err  error
	Code codes.Code
}

// status is an error as the client gets it. What nobody listed may have been
// done all the same, which is what UNKNOWN says.
func (f Failures) status(err error) error {
	for _, row := range f {
		if errors.Is(err, row.Err) {
			return status.Error(row.Code, err.Error())
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unknown, err.Error())
}
