package transport

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestReasonIsWhatTheNetworkOrTheOtherSideSaid(t *testing.T) {
	const connection = `connection error: desc = "transport: `
	for _, c := range []struct {
		code    codes.Code
		message string
		want    string
	}{
		{codes.Unavailable, connection + `Error while dialing: dial tcp 10.0.0.1:6443: connect: connection refused"`, "connection refused"},
		{codes.Unavailable, connection + `Error while dialing: dial tcp: lookup c9: no such host"`, "lookup c9: no such host"},
		{codes.Unavailable, connection + `authentication handshake failed: context deadline exceeded"`, "authentication handshake failed: no answer in time"},
		{codes.DeadlineExceeded, "context deadline exceeded while waiting for connections to become ready", "no answer in time"},
		{codes.Unavailable, "no leader: a quorum of control nodes is not reachable", "no leader: a quorum of control nodes is not reachable"},
		{codes.InvalidArgument, "role: dial tcp it: is not", "role: dial tcp it: is not"},
	} {
		if got := Reason(status.Error(c.code, c.message)); got != c.want {
			t.Errorf("%v %q: got %q, want %q", c.code, c.message, got, c.want)
		}
	}
	if got := Reason(errors.New("read FILE: no such file")); got != "read FILE: no such file" {
		t.Errorf("an error that is no status: got %q", got)
	}
}
