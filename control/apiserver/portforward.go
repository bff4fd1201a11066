package apiserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/musterhq/muster/control/kube"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// portForward serves pods/portforward: connections to ports of a pod, each a
// stream to the agent. kubectl sends SPDY, by itself or tunnelled through a
// WebSocket; other clients send WebSockets with two channels for each port.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request, c *call) error {
	options := &corev1.PodPortForwardOptions{}
	if err := kube.ParameterCodec.DecodeParameters(r.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		return badRequest(err)
	}
	if err := s.connect(r, c, options); err != nil {
		return err
	}
	pod, err := s.boundPod(r.Context(), c)
	if err != nil {
		return err
	}
	if err := upgradable(r); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	f := &forwarder{ctx: ctx, cancel: cancel, streams: s.streams, pod: pod}
	switch {
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		w, r, err = tunnel(w, r)
		if err == nil {
			err = f.serveSPDY(w, r)
		}
	case wsstream.IsWebSocketRequest(r):
		if len(options.Ports) == 0 || len(options.Ports) > forwardPortsMax {
			cancel()
			return badRequest(fmt.Errorf("between 1 and %d ports are required", forwardPortsMax))
		}
		err = f.serveChannels(w, r, options.Ports)
	default:
		err = f.serveSPDY(w, r)
	}
	// The client's connection has ended, and with it what went over it.
	cancel()
	f.running.Wait()
	if err != nil {
		s.log.Debug("port-forward ended", "path", r.URL.Path, "error", err)
	}
	return nil
}

// forwardPortsMax is how many channels a WebSocket can tell apart, by half.
const forwardPortsMax = 127

// forwarder opens a stream to the agent for each connection.
type forwarder struct {
	ctx     context.Context // ends with the client's connection
	cancel  context.CancelFunc
	streams Streams
	pod     *corev1.Pod
	running sync.WaitGroup
}

// forward carries one connection to a port of the pod until the agent ends it.
// The error is what the client is told.
func (f *forwarder) forward(port int32, client io.ReadWriter) error {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	stream, err := f.streams.Open(ctx, f.pod.Spec.NodeName, &agentv1.OpenStream{Request: &agentv1.OpenStream_PortForward{PortForward: &agentv1.PortForwardRequest{
		Namespace: f.pod.Namespace, Pod: f.pod.Name, Uid: string(f.pod.UID), Port: port,
	}}})
	if err == nil {
		// Reads on after the agent has ended, until the client closes its half or
		// everything: closing ours does not end its.
		f.running.Go(func() { sendInput(client, stream.Send) })
		err = receiveForwarded(client, stream)
	}
	if err != nil && f.ctx.Err() == nil {
		return fmt.Errorf("error forwarding port %d to pod %s, uid %s: %w", port, f.pod.Name, f.pod.UID, err)
	}
	return nil
}

func receiveForwarded(client io.Writer, stream Stream) error {
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if data := frame.GetData(); len(data) > 0 {
			if _, err := client.Write(data); err != nil {
				return nil // the client closed this connection
			}
		}
		if result := frame.GetResult(); result != nil {
			if result.GetError() != "" {
				return errors.New(result.GetError())
			}
			return nil
		}
	}
}

// serveChannels serves a WebSocket with a data and an error channel for each
// port, on each of which the port comes first, in two bytes.
func (f *forwarder) serveChannels(w http.ResponseWriter, r *http.Request, ports []int32) error {
	var channels []wsstream.ChannelType
	for range ports {
		channels = append(channels, wsstream.ReadWriteChannel, wsstream.WriteChannel)
	}
	binaryChannels := wsstream.ChannelProtocolConfig{Binary: true, Channels: channels}
	textChannels := wsstream.ChannelProtocolConfig{Binary: false, Channels: channels}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		"": binaryChannels,
		"v4." + wsstream.ChannelWebSocketProtocol:       binaryChannels,
		"v4." + wsstream.Base64ChannelWebSocketProtocol: textChannels,
	})
	conn.SetIdleTimeout(streamIdle)
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	var connections sync.WaitGroup
	for i, port := range ports {
		data, failed := streams[2*i], streams[2*i+1]
		head := binary.LittleEndian.AppendUint16(nil, uint16(port))
		if _, err := data.Write(head); err != nil {
			return err
		}
		if _, err := failed.Write(head); err != nil {
			return err
		}
		connections.Go(func() {
			if err := f.forward(port, wholeConnection{data, f.cancel}); err != nil {
				_, _ = failed.Write([]byte(err.Error())) // the client may be gone
			}
		})
	}
	connections.Wait()
	return nil
}

// wholeConnection is a channel of a protocol that knows no half-close: its end
// is the client's.
type wholeConnection struct {
	io.ReadWriter
	ended context.CancelFunc
}

func (c wholeConnection) Read(b []byte) (int, error) {
	n, err := c.ReadWriter.Read(b)
	if err != nil {
		c.ended()
	}
	return n, err
}
