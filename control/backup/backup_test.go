package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

var cluster = &clusterv1.ClusterIdentity{
	ClusterId: "c", CaCertificate: []byte("cert"), CaKey: []byte("the-key-of-the-ca"), ServiceAccountKey: []byte("sa"),
	GossipKey: []byte("gossip"), Settings: &clusterv1.ClusterSettings{PodCidr: "10.0.0.0/8"}, SavedBy: "c1", Saved: 60,
}

func TestMain(m *testing.M) {
	iterations = 1000
	m.Run()
}

// file is a cluster with keys of a size each, as saved.
func file(t *testing.T, passphrase string, keys, size int) []byte {
	t.Helper()
	machine := fsm.New(fsm.Config{})
	txn := &storagev1.Txn{}
	for i := range keys {
		txn.Ops = append(txn.Ops, &storagev1.Op{Op: &storagev1.Op_Put{Put: &storagev1.Put{
			Key: fmt.Appendf(nil, "%s/%04d", []string{"nodes", "pods"}[i%2], i), Value: bytes.Repeat([]byte{byte(i)}, size),
		}}})
	}
	command, err := proto.Marshal(&storagev1.Command{Txn: txn})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := machine.ApplyOne(command); err != nil {
		t.Fatal(err)
	}
	write, err := machine.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, cluster, []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestInspectFindsWhatWasSaved(t *testing.T) {
	for _, passphrase := range []string{"", "open sesame"} {
		for _, size := range []int{0, 10, 1000} { // less and more than one sealed piece
			saved := file(t, passphrase, 300, size)
			report, err := Inspect(bytes.NewReader(saved), []byte(passphrase))
			if err != nil {
				t.Fatalf("passphrase %q, size %d: %v", passphrase, size, err)
			}
			if !proto.Equal(report.Cluster, cluster) {
				t.Errorf("got %v, want %v", report.Cluster, cluster)
			}
			if report.Encrypted != (passphrase != "") {
				t.Errorf("passphrase %q: encrypted is %v", passphrase, report.Encrypted)
			}
			want := fmt.Sprintf("[{nodes 150 %d} {pods 150 %d}]", 150*(10+size), 150*(9+size))
			if got := fmt.Sprint(report.Kinds); got != want || report.Revision != 300 {
				t.Errorf("got %s at %d, want %s at 300", got, report.Revision, want)
			}
			if secret := bytes.Contains(saved, cluster.CaKey); secret != (passphrase == "") {
				t.Errorf("passphrase %q: the CA's key can be read: %v", passphrase, secret)
			}
		}
	}
}

// A restore from a damaged file would make a cluster that nobody ever had.
func TestAnyFlippedByteIsRefused(t *testing.T) {
	saved := file(t, "", 6, 10)
	for i := range saved {
		damaged := bytes.Clone(saved)
		damaged[i] ^= 0x10
		if _, err := Inspect(bytes.NewReader(damaged), nil); err == nil {
			t.Errorf("byte %d of %d flipped: not noticed", i, len(saved))
		}
	}
}

func TestDamagedEncryptedFileIsRefused(t *testing.T) {
	saved := file(t, "p", 100, 1500)
	second := openingLen + parametersLen + sealedPiece + 16
	for name, damage := range map[string]func([]byte) []byte{
		"the first piece":   func(b []byte) []byte { b[100] ^= 1; return b },
		"the second piece":  func(b []byte) []byte { b[second+100] ^= 1; return b },
		"the salt":          func(b []byte) []byte { b[openingLen+1] ^= 1; return b },
		"cut at a piece":    func(b []byte) []byte { return b[:second] },
		"cut in a piece":    func(b []byte) []byte { return b[:len(b)-1] },
		"something behind":  func(b []byte) []byte { return append(b, 0) },
		"no more protected": func(b []byte) []byte { b[openingLen-1] = open; return b },
	} {
		if _, err := Inspect(bytes.NewReader(damage(bytes.Clone(saved))), []byte("p")); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	for wrong, want := range map[string]error{"": ErrNoPassphrase, "q": ErrPassphrase} {
		if _, err := Inspect(bytes.NewReader(saved), []byte(wrong)); !errors.Is(err, want) {
			t.Errorf("passphrase %q: got %v, want %v", wrong, err, want)
		}
	}
}

func TestCutOrLongerFileIsRefused(t *testing.T) {
	saved := file(t, "", 6, 10)
	for length := range saved {
		if _, err := Inspect(bytes.NewReader(saved[:length]), nil); err == nil {
			t.Errorf("cut after %d of %d bytes: not noticed", length, len(saved))
		}
	}
	if _, err := Inspect(io.MultiReader(bytes.NewReader(saved), strings.NewReader("x")), nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte behind the end: got %v, want %v", err, ErrCorrupt)
	}
}
