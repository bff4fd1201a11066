package consensus

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/musterhq/muster/consensus/wal"
)

// fixtureCluster and its node c1 own testdata/raft-format1.tar.gz, the raft
// directory of a muster that kept its log in bolt.
const fixtureCluster = "30a93b107e3b99bfb2091476069bc02b"

func unpackFixture(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open("testdata/raft-format1.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// content is a log and what raft promised, in a form that can be compared.
type content struct {
	entries  []string
	promises map[string]string
}

func contentOf(t testing.TB, s store) content {
	t.Helper()
	c := content{promises: map[string]string{}}
	first, err := s.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for index := first; index != 0 && index <= last; index++ {
		var e raft.Log
		if err := s.GetLog(index, &e); err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
		c.entries = append(c.entries, fmt.Sprintf("%d %d %s %x %x %d", e.Index, e.Term, e.Type, e.Data, e.Extensions, e.AppendedAt.UnixNano()))
	}
	for _, key := range boltKeys {
		if value, err := s.Get([]byte(key)); err == nil {
			c.promises[key] = string(value)
		}
	}
	return c
}

func (c content) String() string { return strings.Join(c.entries, "\n") + fmt.Sprint(c.promises) }

func boltContent(t testing.TB, path string) content {
	t.Helper()
	b, err := openBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	return contentOf(t, b)
}

func openedContent(t testing.TB, cfg Config) content {
	t.Helper()
	d, err := openDir(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if d.node.Format != dirFormat {
		t.Errorf("format %d, want %d", d.node.Format, dirFormat)
	}
	if _, err := os.Stat(d.boltPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("log.db: %v, want it gone", err)
	}
	return contentOf(t, walStore{d.log, stable{d.stable}})
}

// A directory of format 1, as an older muster left it, opens with all that it held.
func TestFormat1IsConverted(t *testing.T) {
	dir := t.TempDir()
	unpackFixture(t, dir)
	want := boltContent(t, filepath.Join(dir, "raft/log.db"))
	if len(want.entries) == 0 || len(want.promises) == 0 {
		t.Fatalf("the fixture holds %v", want)
	}
	cfg := Config{Dir: dir, Name: "c1", ClusterID: fixtureCluster, Disk: wal.OS}
	for range 2 {
		if got := openedContent(t, cfg); got.String() != want.String() {
			t.Errorf("got\n%v\nwant\n%v", got, want)
		}
	}
}

// format1 makes a directory of format 1 with many entries, and a gap before them
// when a snapshot replaced the log.
func format1(t testing.TB, gap bool) (Config, content) {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), Name: "c1", ClusterID: "cluster-1", Disk: wal.OS}
	raftDir := filepath.Join(cfg.Dir, "raft")
	if err := os.MkdirAll(raftDir, 0o700); err != nil {
		t.Fatal(err)
	}
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(raftDir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	var entries []*raft.Log
	for i := range uint64(300) {
		e := &raft.Log{Index: 1000 + i, Term: 3 + i/100, Data: envelope{term: 3, commands: []command{{origin: 1, sequence: i, data: make([]byte, i*10)}}}.encode()}
		if i%50 == 0 {
			e.Type, e.Data = raft.LogNoop, nil
		}
		entries = append(entries, e)
	}
	if err := errors.Join(bolt.StoreLogs(entries), bolt.SetUint64([]byte("CurrentTerm"), 7), bolt.SetUint64([]byte("LastVoteTerm"), 6),
		bolt.Set([]byte("LastVoteCand"), []byte("10.0.0.1:6443"))); err != nil {
		t.Fatal(err)
	}
	want := contentOf(t, bolt)
	if gap {
		if err := bolt.StoreLogs([]*raft.Log{{Index: 5, Term: 1, Type: raft.LogNoop}, {Index: 6, Term: 1, Type: raft.LogNoop}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := bolt.Close(); err != nil {
		t.Fatal(err)
	}
	node, err := json.Marshal(nodeFile{Format: 1, Cluster: cfg.ClusterID, Name: cfg.Name, Joined: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(raftDir, "node.json"), node, 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg, want
}

func TestConversionKeepsEverything(t *testing.T) {
	for _, gap := range []bool{false, true} {
		cfg, want := format1(t, gap)
		if got := openedContent(t, cfg); got.String() != want.String() {
			t.Errorf("gap %t: got\n%v\nwant\n%v", gap, got, want)
		}
	}
}

// stopDisk refuses every change from one on.
type stopDisk struct {
	wal.Disk
	left *int
}

var errStop = errors.New("the process has ended")

func (d stopDisk) gone() error {
	if *d.left--; *d.left < 0 {
		return errStop
	}
	return nil
}

func (d stopDisk) OpenFile(name string, flag int, perm os.FileMode) (wal.File, error) {
	if err := d.gone(); err != nil {
		return nil, err
	}
	f, err := d.Disk.OpenFile(name, flag, perm)
	return stopFile{f, d}, err
}

func (d stopDisk) Rename(from, to string) error {
	return errors.Join(d.gone(), func() error {
		if *d.left < 0 {
			return nil
		}
		return d.Disk.Rename(from, to)
	}())
}

type stopFile struct {
	wal.File
	disk stopDisk
}

func (f stopFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.disk.gone(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, at)
}

// A conversion that ends anywhere is begun again and loses nothing.
func TestInterruptedConversionStartsOver(t *testing.T) {
	cfg, want := format1(t, true)
	attempts := 0
	for budget := 0; ; budget++ {
		left := budget
		cut := cfg
		cut.Disk = stopDisk{wal.OS, &left}
		d, err := openDir(cut)
		if err == nil {
			d.close()
			break
		}
		if !errors.Is(err, errStop) {
			t.Fatalf("after %d changes: %v", budget, err)
		}
		attempts++
	}
	if attempts < 10 {
		t.Errorf("%d attempts were interrupted", attempts)
	}
	if got := openedContent(t, cfg); got.String() != want.String() {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

// At the end node.json says format 2 and log.db is there still.
func TestLogOfFormat1IsRemovedLate(t *testing.T) {
	cfg, want := format1(t, false)
	path := filepath.Join(cfg.Dir, "raft/log.db")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	openedContent(t, cfg)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := openedContent(t, cfg); got.String() != want.String() {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

// A damaged log of format 1 is refused and stays as it is.
func TestDamagedFormat1IsRefused(t *testing.T) {
	cfg, _ := format1(t, false)
	path := filepath.Join(cfg.Dir, "raft/log.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string][]byte{
		"empty": {}, "cut": whole[:len(whole)/2/4096*4096], "zeroes": make([]byte, len(whole)), "rubbish": []byte(strings.Repeat("rubbish", 10000)),
	} {
		if err := os.WriteFile(path, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := openDir(cfg)
		if err == nil {
			d.close()
			t.Fatalf("%s: opened", name)
		}
		if !strings.Contains(err.Error(), "is damaged") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q does not say what to do in one line", name, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	openedContent(t, cfg)
}
