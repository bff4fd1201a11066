package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/backup"
	"github.com/musterhq/muster/control/store"
)

// run starts a node and waits until it serves; stop ends it.
func run(t *testing.T, cfg Config) (server *Server, stop func()) {
	t.Helper()
	server, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-server.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the node ended with %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the node is not ready after a minute")
	}
	return server, stop
}

func fresh(t *testing.T, name string) Config {
	t.Helper()
	cfg := Config{Dir: filepath.Join(t.TempDir(), "node"), Name: name, Init: true, Address: freeAddress(t), GossipAddress: "127.0.0.1:0"}
	cfg.Listen = cfg.Address
	return cfg
}

// saveTo writes the cluster of a node to a file.
func saveTo(t *testing.T, server *Server, passphrase string) string {
	t.Helper()
	s := &scheduled{Schedule: Schedule{Dir: t.TempDir(), Keep: 1, Passphrase: []byte(passphrase)}, name: server.cfg.Name, server: server}
	path, err := s.save(t.Context(), time.Now())
	if err != nil || path == "" {
		t.Fatalf("saved to %q, %v", path, err)
	}
	return path
}

// The old cluster is gone with all its machines. The new node must be that
// cluster to whoever comes back with an old certificate or token.
func TestSavedClusterBecomesANewOne(t *testing.T) {
	old, stop := run(t, fresh(t, "c1"))
	ctx := t.Context()
	if _, err := old.store.System().Create(ctx, "test", []byte("saved")); err != nil {
		t.Fatal(err)
	}
	machine := identity.Role(identity.Agent)
	names := &names{store: old.store, member: old.configured}
	if err := names.Claim(ctx, machine, "n1", [32]byte{7}); err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(old.cfg.Dir, agentTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	path, before := saveTo(t, old, "open sesame"), old.Revision()
	stop()

	cfg := fresh(t, "c7")
	cfg.Restore, cfg.RestorePassphrase = path, []byte("open sesame")
	server, stop := run(t, cfg)
	if server.id.ClusterID != old.id.ClusterID || !bytes.Equal(server.id.GossipKey, old.id.GossipKey) ||
		!bytes.Equal(server.authority.CertificatePEM(), old.authority.CertificatePEM()) {
		t.Error("it is another cluster")
	}
	if value, _, err := server.store.System().Get("test"); err != nil || string(value) != "saved" {
		t.Errorf("what was saved is %q, %v", value, err)
	}
	if got := server.Revision(); got < before+store.RevisionStep {
		t.Errorf("revision %d, want more than %d", got, before+store.RevisionStep)
	}
	if members := server.node.Status().Servers; len(members) != 1 || members[0].Name != "c7" || members[0].Address != cfg.Address {
		t.Errorf("members %+v, want c7 alone", members)
	}
	if holder, _, err := (&names2{server}).find("n1"); err != nil || !holder.has([32]byte{7}) {
		t.Errorf("n1 is held by %v, %v", holder, err)
	}
	parsed, err := identity.ParseToken(strings.TrimSpace(string(token)))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.tokens.Check(ctx, parsed.Role, parsed.ID, parsed.SecretHash()); err != nil {
		t.Errorf("an old token: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, serverTokenFile)); err != nil {
		t.Errorf("no token for new control nodes: %v", err)
	}
	if _, err := New(ctx, cfg); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the same directory again: %v", err)
	}
	stop()
	cfg.Restore, cfg.RestorePassphrase = "", nil
	server, _ = run(t, cfg)
	if value, _, err := server.store.System().Get("test"); err != nil || string(value) != "saved" {
		t.Errorf("after a restart: what was saved is %q, %v", value, err)
	}
}

type names2 struct{ *Server }

func (n *names2) find(name string) (nameRecord, uint64, error) {
	return (&names{store: n.store}).find(name)
}

func TestRestoreThatIsRefusedChangesNothing(t *testing.T) {
	old, stop := run(t, fresh(t, "c1"))
	names := &names{store: old.store, member: old.configured}
	if err := names.Claim(t.Context(), identity.Agent, "n1", [32]byte{7}); err != nil {
		t.Fatal(err)
	}
	path := saveTo(t, old, "open sesame")
	stop()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(t.TempDir(), "damaged")
	spoilt := bytes.Clone(whole)
	spoilt[len(spoilt)-20] ^= 1
	if err := os.WriteFile(damaged, spoilt, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"passphrase": func(c *Config) { c.RestorePassphrase = []byte("wrong") },
		"damaged":    func(c *Config) { c.Restore = damaged },
		"no such":    func(c *Config) { c.Restore = filepath.Join(t.TempDir(), "none") },
		"compute":    func(c *Config) { c.Name = "n1" },
		"init":       func(c *Config) { c.Init = false },
	} {
		cfg := fresh(t, "c1")
		cfg.Restore, cfg.RestorePassphrase = path, []byte("open sesame")
		change(&cfg)
		_, err := New(t.Context(), cfg)
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want one line that says so", name, err)
		}
		if _, err := os.Stat(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the directory was made", name)
		}
	}
	used := fresh(t, "c1")
	used.Restore, used.RestorePassphrase = path, []byte("open sesame")
	if err := os.MkdirAll(used.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(used.Dir, "precious"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), used); err == nil || !strings.Contains(err.Error(), "in use (it holds precious)") {
		t.Errorf("a used directory: %v", err)
	}
	if entries, _ := os.ReadDir(used.Dir); len(entries) != 1 {
		t.Errorf("%d entries in it, want the one", len(entries))
	}

	// A process that ended halfway leaves the marker. Without --restore it is no node; with it, it is made anew.
	half := fresh(t, "c1")
	if err := os.MkdirAll(filepath.Join(half.Dir, "raft"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half.Dir, restoringFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), half); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("half of a restore: %v", err)
	}
	half.Restore, half.RestorePassphrase = path, []byte("open sesame")
	run(t, half)
}

func TestScheduledSnapshotsAreKeptInTurn(t *testing.T) {
	server, _ := run(t, fresh(t, "c1"))
	dir := filepath.Join(t.TempDir(), "saved")
	s := &scheduled{Schedule: Schedule{Dir: dir, Every: time.Hour, Keep: 2}, name: "c1", server: server}
	at := time.Date(2026, 5, 1, 9, 59, 58, 0, time.UTC)
	save := func() string {
		t.Helper()
		path, err := s.save(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second)
		return filepath.Base(path)
	}
	change := func() {
		t.Helper()
		if _, err := server.store.System().Create(t.Context(), "change"+at.String(), nil); err != nil {
			t.Fatal(err)
		}
	}
	first := save()
	if want := "20260501T095958Z-c1-r"; !strings.HasPrefix(first, want) || !strings.HasSuffix(first, savedSuffix) {
		t.Errorf("named %s, want %s…%s", first, want, savedSuffix)
	}
	// The state may change by itself a moment after the start.
	for save() != "." {
	}
	// What others have there, and what was left of a file, is not counted.
	other := "20260501T095957Z-c11-r00000000000000000001" + savedSuffix
	partial := "20260501T095957Z-c1-r00000000000000000001" + savedSuffix + savedPartial
	for _, name := range []string{other, partial, "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var last []string
	for range 4 {
		change()
		last = append(last, save())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := strings.Join([]string{other, last[2], last[3], "notes.txt"}, " ")
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	file, err := os.Open(filepath.Join(dir, last[3]))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	report, err := backup.Inspect(file, nil)
	// Duties of the new leader may have written something since it was saved.
	if err != nil || !strings.Contains(last[3], fmt.Sprintf("-r%020d", report.Revision)) || report.Revision > server.Revision() || report.Cluster.SavedBy != "c1" {
		t.Errorf("the newest, %s, is of revision %d, saved by %s, now at %d, %v", last[3], report.Revision, report.Cluster.SavedBy, server.Revision(), err)
	}

	// A new one that cannot be written, as on a full disk: the old ones stay.
	ended, end := context.WithCancel(t.Context())
	end()
	change()
	if path, err := s.save(ended, at); err == nil {
		t.Errorf("saved to %s", path)
	}
	files, err := s.list()
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, %v after one that failed, want 2", len(files), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 4 {
		t.Errorf("%d entries, want 4: a part of a file is left", len(entries))
	}
}
