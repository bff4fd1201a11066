package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/identity/identitytest"
	"google.golang.org/protobuf/proto"
)

func TestLoadGivesBackWhatWasSaved(t *testing.T) {
	want := identitytest.New(t).Server("c1")
	dir := filepath.Join(t.TempDir(), "new", "node")
	if err := want.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := want.SetServers([]string{"10.0.0.1:6443", "10.0.0.2:6443"}); err != nil {
		t.Fatal(err)
	}
	got, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != want.Name || got.Role != want.Role || got.ClusterID != want.ClusterID ||
		!bytes.Equal(got.GossipKey, want.GossipKey) || !bytes.Equal(got.CACert, want.CACert) ||
		!proto.Equal(got.Settings, want.Settings) || !slices.Equal(got.Servers(), want.Servers()) ||
		!got.Certificate().Leaf.Equal(want.Certificate().Leaf) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, name := range []string{"identity.json", "pki/node.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode().Perm())
		}
	}
}

func TestLoadOfAnEmptyDirectoryIsNotExist(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
	// A join that was interrupted while it wrote leaves no identity either.
	if _, err := identity.KeyFor(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with only a key: got %v, want ErrNotExist", err)
	}
}

// An operator who finds a node that does not start gets one line with the file
// and the way out, whatever has happened to the directory.
func TestLoadNamesTheDamagedFile(t *testing.T) {
	cluster := identitytest.New(t)
	foreign := identitytest.New(t).Server("c1")
	other := cluster.Server("c2")
	foreignDir, otherDir := t.TempDir(), t.TempDir()
	for id, dir := range map[*identity.Identity]string{foreign: foreignDir, other: otherDir} {
		if err := id.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	read := func(dir, name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	replace := func(file, old, new string) func(string) {
		return func(dir string) {
			text := string(read(dir, file))
			if !strings.Contains(text, old) {
				t.Fatalf("%s has no %q", file, old)
			}
			os.WriteFile(filepath.Join(dir, file), []byte(strings.Replace(text, old, new, 1)), 0o600)
		}
	}
	write := func(file, text string) func(string) {
		return func(dir string) { os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600) }
	}
	remove := func(file string) func(string) {
		return func(dir string) { os.Remove(filepath.Join(dir, file)) }
	}
	for _, c := range []struct {
		name   string
		damage func(dir string)
		want   []string
	}{
		{"truncated description", write("identity.json", `{"version": 1, "na`), []string{"identity.json", "damaged", "restore"}},
		{"empty description", write("identity.json", ""), []string{"identity.json", "damaged"}},
		{"zeros for a description", write("identity.json", strings.Repeat("\x00", 100)), []string{"identity.json", "damaged"}},
		{"no version", write("identity.json", "{}"), []string{"identity.json", "version is missing"}},
		{"newer version", replace("identity.json", `"version": 1`, `"version": 9`), []string{"identity.json", "newer muster"}},
		{"bad settings", replace("identity.json", "nodeCidrBits", "podCidr"), []string{"identity.json", "settings"}},
		{"bad role", replace("identity.json", `"server"`, `"pilot"`), []string{"role", "pilot"}},
		{"no cluster ID", replace("identity.json", `"clusterID"`, `"x"`), []string{"cluster ID"}},
		{"short gossip key", replace("identity.json", `"gossipKey": "`, `"gossipKey": "AAAA", "x": "`), []string{"gossip key", "3 bytes"}},
		{"another name", replace("identity.json", `"c1"`, `"c9"`), []string{`"muster:server:c1"`, `"muster:server:c9"`}},
		{"no key", remove("pki/node.key"), []string{"node.key", "missing", "join again"}},
		{"empty key", write("pki/node.key", ""), []string{"node.key", "not PEM"}},
		{"certificate for a key", func(dir string) { os.WriteFile(filepath.Join(dir, "pki/node.key"), read(dir, "pki/node.crt"), 0o600) }, []string{"node.key", "CERTIFICATE where"}},
		{"another node's key", func(dir string) {
			os.WriteFile(filepath.Join(dir, "pki/node.key"), read(otherDir, "pki/node.key"), 0o600)
		}, []string{"another key"}},
		{"no certificate", remove("pki/node.crt"), []string{"node.crt", "missing"}},
		{"cut certificate", write("pki/node.crt", "-----BEGIN CERTIFICATE-----\nMIIB"), []string{"node.crt", "not PEM"}},
		{"garbage certificate", write("pki/node.crt", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"), []string{"node.crt"}},
		{"no CA", remove("pki/ca.crt"), []string{"ca.crt", "missing"}},
		{"another cluster's CA", func(dir string) {
			os.WriteFile(filepath.Join(dir, "pki/ca.crt"), read(foreignDir, "pki/ca.crt"), 0o600)
		}, []string{"not signed by the cluster's CA"}},
		{"a node's certificate for the CA", func(dir string) { os.WriteFile(filepath.Join(dir, "pki/ca.crt"), read(dir, "pki/node.crt"), 0o600) }, []string{"ca.crt"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := cluster.Server("c1").Save(dir); err != nil {
				t.Fatal(err)
			}
			c.damage(dir)
			_, err := identity.Load(dir)
			if err == nil {
				t.Fatal("loaded all the same")
			}
			if errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v: taken for a new directory", err)
			}
			for _, want := range append(c.want, dir) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than one line", err)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	dir := f.TempDir()
	if err := identitytest.New(f).Agent("n1").Save(dir); err != nil {
		f.Fatal(err)
	}
	names := []string{"identity.json", "pki/node.crt", "pki/node.key", "pki/ca.crt"}
	whole := make([][]byte, len(names))
	for i, name := range names {
		var err error
		if whole[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), whole[i])
		f.Add(uint8(i), whole[i][:len(whole[i])/2])
	}
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		// One directory for all: making a new one each time is most of the cost.
		damaged := int(which) % len(names)
		for i, name := range names {
			text := whole[i]
			if i == damaged {
				text = content
			}
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		id, err := identity.Load(dir)
		if (id == nil) == (err == nil) {
			t.Errorf("got %v and %v", id, err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is more than one line", err)
		}
	})
}

func TestKeyForSurvivesUntilTheJoinSucceeds(t *testing.T) {
	dir := t.TempDir()
	first, err := identity.KeyFor(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := identity.KeyFor(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Equal(second) {
		t.Error("the second attempt has another key")
	}
	os.WriteFile(filepath.Join(dir, "pki/node.key"), []byte("torn"), 0o600)
	if third, err := identity.KeyFor(dir); err != nil || third.Equal(first) {
		t.Errorf("with a damaged key: got %v, want a new key", err)
	}
}

// The key and the certificate are two files. A crash between the two writes of
// a renewal must not leave a node that cannot start.
func TestLoadFinishesARenewalThatACrashInterrupted(t *testing.T) {
	cluster := identitytest.New(t)
	id := cluster.Agent("n1")
	dir := t.TempDir()
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	oldKey, err := os.ReadFile(filepath.Join(dir, "pki/node.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Install(cluster.Sign(identity.Agent, "n1", &key.PublicKey), key); err != nil {
		t.Fatal(err)
	}
	// As after a crash before the key took its place.
	if err := os.Rename(filepath.Join(dir, "pki/node.key"), filepath.Join(dir, "pki/node.key.next")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pki/node.key"), oldKey, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing left to finish
		got, err := identity.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Certificate().Leaf.Equal(id.Certificate().Leaf) || !key.Equal(got.Certificate().PrivateKey) {
			t.Error("the renewed certificate and its key are not in use")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "pki/node.key.next")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the next key: got %v, want it gone", err)
	}
	// As after a crash before the certificate was written.
	if err := os.WriteFile(filepath.Join(dir, "pki/node.key.next"), oldKey, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Load(dir); err != nil {
		t.Error(err)
	}
}

func TestInstallRefusesWhatIsNotThisNodes(t *testing.T) {
	cluster := identitytest.New(t)
	id := cluster.Agent("n1")
	before := id.Certificate()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, certificate := range map[string][]byte{
		"another node's":    cluster.Sign(identity.Agent, "n2", &key.PublicKey),
		"another role's":    cluster.Sign(identity.Server, "n1", &key.PublicKey),
		"another key's":     cluster.Sign(identity.Agent, "n1", &otherKey.PublicKey),
		"another cluster's": identitytest.New(t).Sign(identity.Agent, "n1", &key.PublicKey),
		"none":              nil,
	} {
		if err := id.Install(certificate, key); err == nil {
			t.Errorf("%s certificate was installed", name)
		}
	}
	if id.Certificate() != before {
		t.Error("a refused certificate is in use")
	}
}

func TestRunRenewalRenewsInTimeAndKeepsTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := identitytest.New(t) // certificates live for an hour and a minute
		id := cluster.Agent("n1")
		dir := t.TempDir()
		if err := id.Save(dir); err != nil {
			t.Fatal(err)
		}
		first := id.Certificate().Leaf
		begin := time.Now()
		var mu sync.Mutex
		var asked []time.Duration
		calls := func() []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(asked)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- id.RunRenewal(ctx, slog.New(slog.DiscardHandler), func(_ context.Context, csr []byte) ([]byte, error) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, time.Since(begin))
				if len(asked) == 1 {
					return nil, errors.New("no control node answers")
				}
				return cluster.SignRequest(csr, identity.Agent, "n1"), nil
			})
		}()
		time.Sleep(38 * time.Minute)
		if got := calls(); len(got) != 0 {
			t.Errorf("renewed after %v, before two thirds of an hour", got)
		}
		time.Sleep(8 * time.Minute)
		if got := calls(); len(got) != 2 || got[1]-got[0] != time.Minute {
			t.Errorf("asked at %v, want twice, a minute apart", got)
		}
		if id.Certificate().Leaf.Equal(first) {
			t.Error("the certificate is the old one")
		}
		if saved, err := identity.Load(dir); err != nil || !saved.Certificate().Leaf.Equal(id.Certificate().Leaf) {
			t.Errorf("the certificate on disk is not the renewed one (%v)", err)
		}
		time.Sleep(45 * time.Minute)
		if got := calls(); len(got) != 3 {
			t.Errorf("asked at %v, want a second renewal", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAnExpiredAgentIsToldWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := identitytest.New(t)
		agentDir, serverDir := t.TempDir(), t.TempDir()
		if err := cluster.Agent("n1").Save(agentDir); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Server("c1").Save(serverDir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		_, err := identity.Load(agentDir)
		if err == nil || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "clock") {
			t.Errorf("got %v, want expired, and what to do", err)
		}
		if _, err := identity.Load(serverDir); err != nil {
			t.Errorf("a control node signs itself a new one, but: %v", err)
		}
	})
}

func TestARenewedCertificateIsUsedByTheNextHandshake(t *testing.T) {
	cluster := identitytest.New(t)
	server, client := cluster.Server("c1"), cluster.Agent("n1")
	serverConfig, clientConfig := server.ServerTLS(), client.ClientTLS(identity.ServerName)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Install(cluster.Sign(identity.Server, "c1", &key.PublicKey), key); err != nil {
		t.Fatal(err)
	}
	serverSide, clientSide := connect(t, serverConfig, clientConfig)
	if !clientSide.PeerCertificates[0].Equal(server.Certificate().Leaf) {
		t.Error("the server showed its old certificate")
	}
	if role, name, ok := identity.NodeOf(serverSide.VerifiedChains[0][0]); !ok || role != identity.Agent || name != "n1" {
		t.Errorf("the client is %s %s, want agent n1", role, name)
	}
	if serverSide.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %x, want 1.3", serverSide.Version)
	}
}
