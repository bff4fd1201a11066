package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// profile has a cluster's first API server profile itself while a case runs,
// over a connection that no client uses. Both systems serve /debug/pprof. What
// it answers waits for the profiles.
func (b *bench) profile(ctx context.Context, c *cluster, k aCase) (wait func() error) {
	if b.profiles == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		seconds := strconv.Itoa(max(1, int((b.warm + b.duration).Truncate(time.Second).Seconds())))
		done <- b.save(ctx, c, k, "cpu", "/debug/pprof/profile", map[string]string{"seconds": seconds})
	}()
	return func() error {
		if err := <-done; err != nil {
			return err
		}
		return b.save(ctx, c, k, "heap", "/debug/pprof/heap", nil)
	}
}

func (b *bench) save(ctx context.Context, c *cluster, k aCase, kind, path string, query map[string]string) error {
	held, err := c.dial(c.Nodes[0])
	if err != nil {
		return err
	}
	defer held.close()
	client, err := held.in(inJSON)
	if err != nil {
		return err
	}
	r := client.rest.Get().AbsPath(path)
	for name, value := range query {
		r = r.Param(name, value)
	}
	profile, err := r.DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	name := fmt.Sprintf("%d-%s-%s.%s", len(c.Nodes), c.Name(), strings.ReplaceAll(k.name, "/", "-"), kind)
	return os.WriteFile(filepath.Join(b.profiles, name), profile, 0o644)
}
