package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

func TestDirectoriesAreTriedUntilTheyAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		var said []string
		r := newReclaims(slog.New(slog.DiscardHandler), func(path string) error {
			if path != "/volumes/v" {
				return nil
			}
			if tries++; tries < 10 {
				return errors.New("busy")
			}
			return nil
		}, func(name, uid, failure string) { said = append(said, fmt.Sprintf("%s %s %q", name, uid, failure)) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.take(&agentv1.ReclaimVolume{Name: "v", Uid: "1", Path: "/volumes/v"})
		time.Sleep(10 * time.Second)
		r.take(&agentv1.ReclaimVolume{Name: "w", Uid: "2", Path: "/volumes/w"})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if want := []string{`v 1 "busy"`, `w 2 ""`, `v 1 ""`}; !slices.Equal(said, want) || tries != 10 {
			t.Errorf("said %q after %d tries, want %q", said, tries, want)
		}
		cancel()
		<-done
	})
}
