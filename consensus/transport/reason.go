package transport

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason says in an operator's words why a call over a connection of this
// package failed. What the other side said is left as it is; gRPC's account of
// a connection that was not made is reduced to what the network said, without
// the address, which the caller names.
func Reason(err error) string {
	s := status.Convert(err)
	text := s.Message()
	switch s.Code() {
	case codes.DeadlineExceeded:
		return "no answer in time"
	case codes.Unavailable:
	default:
		return text
	}
	text, ours := strings.CutPrefix(text, `connection error: desc = "transport: `)
	if !ours {
		return text
	}
	text = strings.TrimSuffix(text, `"`)
	text = strings.TrimPrefix(text, "Error while dialing: ")
	if rest, dialed := strings.CutPrefix(text, "dial tcp"); dialed {
		// Either an address and a colon follow, or just the colon.
		if _, why, found := strings.Cut(rest, ": "); found {
			text = why
		}
	}
	text = strings.TrimPrefix(text, "connect: ")
	return strings.Replace(text, "context deadline exceeded", "no answer in time", 1)
}
