package consensus

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whatever byte of whatever file is flipped, and wherever a file is cut, a node
// has every command that it acknowledged, or refuses to start in one line.
func TestTornFilesLoseNothing(t *testing.T) {
	c := newCluster(t, 1, func(cfg *Config) { cfg.SnapshotEntries, cfg.TrailingEntries = 20, 5 })
	h := c.hosts[0]
	for i := range 60 {
		c.propose(h, strings.Repeat("y", i))
	}
	c.eventually("a snapshot", func() bool { index, _, _ := h.snapshots.newest(); return index > 40 })
	h.stop()
	h.tune = nil
	root := filepath.Join(h.dir, "raft")
	files := map[string][]byte{}
	if err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != "lock" {
			files[path], err = os.ReadFile(path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		for path, b := range files {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	started, refused := 0, 0
	try := func(what string) {
		if err := h.open(); err != nil {
			refused++
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), h.dir) {
				t.Errorf("%s: %q is not one line that names the directory", what, err)
			}
			return
		}
		started++
		h.run()
		ctx, cancel := c.ctx()
		defer cancel()
		if err := h.ReadBarrier(ctx); err != nil {
			t.Errorf("%s: started and has no leader: %v", what, err)
		}
		if got := len(h.sm.all()); got != 60 {
			t.Errorf("%s: started with %d commands, want 60 or a refusal", what, got)
		}
		h.stop()
	}
	for path, whole := range files {
		name := strings.TrimPrefix(path, root)
		size := len(whole)
		offsets := []int{0, 9, 17, size / 2, size - 1}
		if strings.Contains(name, "log-") {
			end := size
			for end > 0 && whole[end-1] == 0 {
				end--
			}
			// The newest record, the one before, the mark, the untouched rest.
			offsets = []int{0, 30, 512, 540, 4096, 4100, 4120, max(end-1, 0), max(end-512, 0), end + 1, size - 1}
		}
		for _, at := range offsets {
			if at < 0 || at >= size {
				continue
			}
			restore()
			b := slices.Clone(whole)
			b[at] ^= 0x41
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			try(name + " flipped")
			restore()
			if err := os.Truncate(path, int64(at)); err != nil {
				t.Fatal(err)
			}
			try(name + " cut")
		}
		restore()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "log-0000000000000002") { // nothing was written to it yet
			try(name + " removed")
		}
	}
	t.Logf("%d refused, %d started whole", refused, started)
	if refused == 0 || started == 0 {
		t.Error("want some of both")
	}
}
