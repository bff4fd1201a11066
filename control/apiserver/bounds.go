package apiserver

import (
	"log"
	"net/http"
	"time"
)

// Bounds of a connection. What they do not bound is bounded for each request.
const (
	// headerTimeout is how long a client may take to send a request's header.
	headerTimeout = 10 * time.Second
	// idleTimeout is how long a connection may carry no request, as upstream.
	idleTimeout = 90 * time.Second
	headerMax   = 1 << 20
	// streamsMax is how many requests one HTTP/2 connection may have. net/http
	// closes one that opens and resets four times as many faster than they are
	// answered (CVE-2023-44487).
	streamsMax = 100
	// uploadBuffer holds 99 of 100 objects; upstream's.
	uploadBuffer = 256 << 10
)

// HTTP is a server for handler with the bounds that a server for anybody needs.
// The caller adds what it listens on.
func HTTP(handler http.Handler, complaints *log.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerMax,
		ErrorLog:          complaints,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streamsMax,
			MaxReadFrameSize:              uploadBuffer,
			MaxReceiveBufferPerStream:     uploadBuffer,
			MaxReceiveBufferPerConnection: streamsMax * uploadBuffer,
			// A watch of a client that has vanished is found by asking.
			SendPingTimeout: 15 * time.Second,
			PingTimeout:     10 * time.Second,
		},
	}
}
