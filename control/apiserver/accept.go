package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	// streamIdle ends a stream on which nothing happens, as upstream.
	streamIdle = 4 * time.Hour
	// streamStart is how long a client may take to open its SPDY streams.
	streamStart = 30 * time.Second
)

var errClientGone = errors.New("the client went away before it had opened its streams")

// wanted are the streams that a client asks for.
type wanted struct{ stdin, stdout, stderr, tty bool }

// upgradable refuses what cannot become a stream before anything is started for
// it. HTTP/2 connections cannot be taken over; clients use HTTP/1.1 for streams.
func upgradable(r *http.Request) error {
	if !httpstream.IsUpgradeRequest(r) {
		return badRequest(errors.New("Upgrade request required"))
	}
	if r.ProtoMajor != 1 {
		return badRequest(errors.New("streams need HTTP/1.1"))
	}
	return nil
}

// acceptWebSocket speaks channel.k8s.io, version 5 for kubectl, whose close
// signal lets stdin end while output goes on, down to the first for browsers.
func acceptWebSocket(w http.ResponseWriter, r *http.Request, want wanted) (*remote, error) {
	channel := func(yes bool, t wsstream.ChannelType) wsstream.ChannelType {
		if yes {
			return t
		}
		return wsstream.IgnoreChannel
	}
	channels := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  channel(want.stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: channel(want.stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: channel(want.stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		// Read also without a terminal: its end is how a lost client shows.
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	binary := wsstream.ChannelProtocolConfig{Binary: true, Channels: channels}
	text := wsstream.ChannelProtocolConfig{Binary: false, Channels: channels}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		"":                                      binary,
		remotecommand.StreamProtocolV1Name:      binary,
		wsstream.Base64ChannelWebSocketProtocol: text,
		remotecommand.StreamProtocolV4Name:      binary,
		"v4." + wsstream.Base64ChannelWebSocketProtocol: text,
		remotecommand.StreamProtocolV5Name:              binary,
	})
	conn.SetIdleTimeout(streamIdle)
	protocol, streams, err := conn.Open(w, r)
	if err != nil {
		return nil, err
	}
	// An empty message on the lowest writable channel says that all is set up.
	first := remotecommand.StreamErr
	switch {
	case want.stdout:
		first = remotecommand.StreamStdOut
	case want.stderr:
		first = remotecommand.StreamStdErr
	}
	if _, err := streams[first].Write(nil); err != nil {
		_ = conn.Close()
		return nil, err
	}
	gone := make(chan bool)
	client := &remote{
		resize: &endNoticed{reader: streams[remotecommand.StreamResize], ended: gone},
		gone:   gone,
		close:  func() { _ = conn.Close() },
	}
	if want.stdin {
		client.stdin = streams[remotecommand.StreamStdIn]
	}
	if want.stdout {
		client.stdout = streams[remotecommand.StreamStdOut]
	}
	if want.stderr {
		client.stderr = streams[remotecommand.StreamStdErr]
	}
	switch protocol {
	case remotecommand.StreamProtocolV4Name, "v4." + wsstream.Base64ChannelWebSocketProtocol, remotecommand.StreamProtocolV5Name:
		client.status = statusAsJSON(streams[remotecommand.StreamErr])
	default:
		client.status = statusAsText(streams[remotecommand.StreamErr])
	}
	return client, nil
}

// endNoticed closes ended at the reader's end. Only one goroutine reads it.
type endNoticed struct {
	reader io.Reader
	ended  chan bool
	once   bool
}

func (e *endNoticed) Read(b []byte) (int, error) {
	n, err := e.reader.Read(b)
	if err != nil && !e.once {
		e.once = true
		close(e.ended)
	}
	return n, err
}

// acceptSPDY speaks SPDY/3.1, for older clients: one SPDY stream for each of the
// command's, told apart by a header.
func acceptSPDY(w http.ResponseWriter, r *http.Request, want wanted) (*remote, error) {
	protocol, err := httpstream.Handshake(r, w, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return nil, err
	}
	type opened struct {
		stream httpstream.Stream
		reply  <-chan struct{}
	}
	arrivals := make(chan opened)
	closing := make(chan struct{})
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, reply <-chan struct{}) error {
		select {
		case arrivals <- opened{stream, reply}:
			return nil
		case <-closing:
			return errors.New("no more streams are expected")
		}
	})
	if conn == nil {
		return nil, errors.New("the connection could not be taken over")
	}
	defer close(closing)
	conn.SetIdleTimeout(streamIdle)

	resizes := want.tty && (protocol == remotecommand.StreamProtocolV4Name || protocol == remotecommand.StreamProtocolV3Name)
	expected := map[string]bool{
		remotecommand.StreamTypeError:  true,
		remotecommand.StreamTypeStdin:  want.stdin,
		remotecommand.StreamTypeStdout: want.stdout,
		remotecommand.StreamTypeStderr: want.stderr,
		remotecommand.StreamTypeResize: resizes,
	}
	missing := 0
	for _, yes := range expected {
		if yes {
			missing++
		}
	}
	client := &remote{gone: conn.CloseChan(), close: func() { _ = conn.Close() }}
	late := time.NewTimer(streamStart)
	defer late.Stop()
	for missing > 0 {
		select {
		case arrived := <-arrivals:
			kind := arrived.stream.Headers().Get(remotecommand.StreamType)
			if !expected[kind] {
				_ = conn.Close()
				return nil, fmt.Errorf("unexpected stream of type %q", kind)
			}
			expected[kind] = false
			missing--
			client.set(kind, arrived.stream, protocol)
			// Before the reply is on its way a write would wait for it, also on a
			// connection that is gone.
			select {
			case <-arrived.reply:
			case <-conn.CloseChan():
				return nil, errClientGone
			}
		case <-conn.CloseChan():
			return nil, errClientGone
		case <-late.C:
			_ = conn.Close()
			return nil, errors.New("timed out waiting for client to create streams")
		}
	}
	return client, nil
}

func (c *remote) set(kind string, stream httpstream.Stream, protocol string) {
	switch kind {
	case remotecommand.StreamTypeError:
		if protocol == remotecommand.StreamProtocolV4Name {
			c.status = statusAsJSON(stream)
		} else {
			c.status = statusAsText(stream)
		}
	case remotecommand.StreamTypeStdin:
		c.stdin = stream
	case remotecommand.StreamTypeStdout:
		c.stdout = stream
	case remotecommand.StreamTypeStderr:
		c.stderr = stream
	case remotecommand.StreamTypeResize:
		c.resize = stream
	}
}

func statusAsJSON(w io.Writer) func(metav1.Status) error {
	return func(status metav1.Status) error {
		b, err := json.Marshal(status)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
}

// statusAsText is for protocols before version 4: silence is success.
func statusAsText(w io.Writer) func(metav1.Status) error {
	return func(status metav1.Status) error {
		if status.Status == metav1.StatusSuccess {
			return nil
		}
		_, err := w.Write([]byte(status.Message))
		return err
	}
}
