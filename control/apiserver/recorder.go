package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"time"

	"github.com/musterhq/muster/control/audit"
)

// recorder notes how a request was answered. It passes on what the writer below
// can do beside writing; streams need Flush and Hijack.
type recorder struct {
	http.ResponseWriter
	code     int
	size     int64 // of the body, as it was sent
	hijacked bool

	began time.Time
	// event is how the request is written down, nil if it is not.
	event *audit.Event
	// long says that the answer lasts, unknown that nobody knows the sender.
	long, unknown bool
}

// note takes down how the answer begins.
func (r *recorder) note(code int) {
	r.code = code
	if r.long || r.unknown {
		r.event.Began(code)
	}
}

// end says that the request is over.
func (r *recorder) end(code int) {
	switch {
	case r.unknown: // that it was refused is all there is to say, as upstream has it
	case r.long && r.code == 0:
		r.event.Began(code)
		r.event.Ended(code)
	default:
		r.event.Ended(code)
	}
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= 200 || code == http.StatusSwitchingProtocols {
		r.note(code)
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.note(http.StatusOK)
	}
	n, err := r.ResponseWriter.Write(b)
	r.size += int64(n)
	return n, err
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Flush() {
	if r.code == 0 {
		r.note(http.StatusOK)
	}
	// A writer that cannot flush sends when it has enough; there is nothing to
	// be done about it here.
	_ = http.NewResponseController(r.ResponseWriter).Flush()
}

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.hijacked = true
		if r.code == 0 {
			r.event.Began(http.StatusSwitchingProtocols)
		}
	}
	return conn, buffered, err
}
