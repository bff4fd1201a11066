package apiserver

import (
	"bufio"
	"net"
	"net/http"
)

// recorder notes how a request was answered. It passes on what the writer below
// can do beside writing; streams need Flush and Hijack.
type recorder struct {
	http.ResponseWriter
	code     int
	size     int64 // of the body, as it was sent
	hijacked bool
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= 200 || code == http.StatusSwitchingProtocols {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.size += int64(n)
	return n, err
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Flush() {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	// A writer that cannot flush sends when it has enough; there is nothing to
	// be done about it here.
	_ = http.NewResponseController(r.ResponseWriter).Flush()
}

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.hijacked = true
	}
	return conn, buffered, err
}
