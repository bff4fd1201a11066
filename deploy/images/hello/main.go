// Command hello is the sample web server: it answers with the pod it runs in,
// its node and its address, says on /healthz that it is well, logs every
// request, and on SIGTERM finishes what it is answering before it ends.
//
// Environment: PORT (8080), NODE_NAME, POD_IP.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.SetFlags(log.LUTC | log.Ldate | log.Ltime | log.Lmicroseconds)
	log.SetOutput(os.Stdout)
	listener, err := net.Listen("tcp", ":"+getenv("PORT", "8080"))
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(ctx, listener, whoami(), log.Default()); err != nil {
		log.Fatal(err)
	}
}

// identity is what hello says about itself.
type identity struct{ pod, node, ip string }

func whoami() identity {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	return identity{pod: getenv("HOSTNAME", hostname), node: getenv("NODE_NAME", "unknown"), ip: getenv("POD_IP", address())}
}

func (id identity) String() string {
	return fmt.Sprintf("hello from %s on %s at %s\n", id.pod, id.node, id.ip)
}

// serve answers until ctx ends, and then lets requests under way finish.
func serve(ctx context.Context, listener net.Listener, id identity, out *log.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, id.String()) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mux.ServeHTTP(w, r)
			out.Printf("%s %s from %s", r.Method, r.URL.Path, r.RemoteAddr)
		}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		out.Print("stopping")
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ended <- server.Shutdown(grace)
	}()
	out.Printf("%s on %s listens on %s", id.pod, id.node, listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

// address is the first one that is not the loopback's.
func address() string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "unknown"
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "no address"
}

func getenv(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
