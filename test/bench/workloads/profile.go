package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
)

// profile has a cluster's first API server profile itself while a step runs: its
// first seconds of processor time, and then its heap. In Muster that is the
// scheduler and the controllers, too, if this node leads.
func (l *lab) profile(ctx context.Context) (wait func()) {
	if l.bench.profiles == "" {
		return func() {}
	}
	done := make(chan error, 1)
	go func() {
		seconds := strconv.Itoa(int(l.bench.profileTime / time.Second))
		done <- l.save(ctx, "cpu", "/debug/pprof/profile", map[string]string{"seconds": seconds})
	}()
	return func() {
		if err := errors.Join(<-done, l.save(ctx, "heap", "/debug/pprof/heap", nil)); err != nil {
			measure.Progress("  no profile: %v", err)
		}
	}
}

func (l *lab) save(ctx context.Context, kind, path string, query map[string]string) error {
	client, err := l.connect(0)
	if err != nil {
		return err
	}
	r := client.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", "*/*")
	for key, value := range query {
		r = r.Param(key, value)
	}
	profile, err := r.DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	file := fmt.Sprintf("%d-%d-%s-%s.%s", len(l.Nodes), l.nodes, l.Name(), strings.ReplaceAll(l.step, "/", "-"), kind)
	return os.WriteFile(filepath.Join(l.bench.profiles, file), profile, 0o644)
}
