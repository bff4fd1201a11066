package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
)

// start serves on a free port until the returned function is called, which
// returns serve's error.
func start(t *testing.T, out io.Writer) (url string, stop func() error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, identity{"web-1", "n1", "10.42.1.2"}, log.New(out, "", 0)) }()
	return "http://" + listener.Addr().String(), func() error { cancel(); return <-ended }
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestHelloSaysWhoItIsAndLogsWhoAsked(t *testing.T) {
	var out strings.Builder
	url, stop := start(t, &out)
	if code, got := get(t, url+"/"); code != 200 || got != "hello from web-1 on n1 at 10.42.1.2\n" {
		t.Errorf("/ answers %d %q", code, got)
	}
	if code, got := get(t, url+"/healthz"); code != 200 || got != "ok\n" {
		t.Errorf("/healthz answers %d %q", code, got)
	}
	if err := stop(); err != nil {
		t.Errorf("stopped with %v, want no error", err)
	}
	for _, want := range []string{"GET / from 127.0.0.1", "GET /healthz from 127.0.0.1", "stopping"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log is %q, want %q in it", out.String(), want)
		}
	}
}
