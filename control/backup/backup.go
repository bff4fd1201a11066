// Package backup is the form of the file that `muster operator snapshot save`
// writes: what makes a cluster this one, with its keys, and the state of the
// store. Where both come from is the business of who calls Write; what the
// state means is fsm's and the store's.
//
// # Format
//
// All numbers are big-endian.
//
//	magic       8 bytes, "MUSTRSAV"
//	format      uint32, 1
//	protection  1 byte: 0 none, 1 passphrase
//	with a passphrase: salt, 16 bytes; iterations, uint32
//	content
//
// The content is
//
//	cluster  uint32 length, cluster.v1.ClusterIdentity
//	state    pieces of uint32 length and that many bytes of fsm's snapshot
//	         format, ended by a length of 0
//	sum      32 bytes, SHA-256 of everything before it, the opening included
//
// and nothing follows. With a passphrase the content is cut into pieces of 64
// KiB, each sealed with AES-256-GCM: the key is PBKDF2-HMAC-SHA256 of the
// passphrase, the nonce the piece's number (12 bytes), the additional data the
// opening and one byte, 1 for the last piece, so that none can be left out,
// exchanged or added.
package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

var (
	// ErrCorrupt says that a file is damaged, cut short, or no snapshot at all.
	ErrCorrupt = errors.New("corrupt snapshot")
	// ErrNoPassphrase says that a file needs a passphrase and none was given.
	ErrNoPassphrase = errors.New("the snapshot is encrypted: its passphrase is needed (--passphrase-file; muster server: --restore-passphrase-file)")
	// ErrPassphrase says that a file needs another passphrase. A damaged first
	// piece looks the same.
	ErrPassphrase = errors.New("the snapshot is encrypted, and this is not its passphrase (or its beginning is damaged)")
)

const (
	magic  = "MUSTRSAV"
	format = 1

	openingLen = len(magic) + 4 + 1 // magic, format, protection

	open      = 0
	encrypted = 1

	// identityBytesMax and pieceBytesMax bound what a damaged length can cost.
	identityBytesMax = 1 << 20
	pieceBytesMax    = 16 << 20
)

// Writer writes one file. State is written with Write, in pieces of any size.
type Writer struct {
	to   io.Writer // of content: through the seal, if any
	seal *sealer
	sum  hash.Hash
}

// NewWriter begins a file. Without a passphrase everyone who can read it has
// the cluster's keys.
func NewWriter(to io.Writer, cluster *clusterv1.ClusterIdentity, passphrase []byte) (*Writer, error) {
	opening := binary.BigEndian.AppendUint32([]byte(magic), format)
	w := &Writer{to: to, sum: sha256.New()}
	if len(passphrase) == 0 {
		opening = append(opening, open)
	} else {
		var err error
		opening = append(opening, encrypted)
		if opening, w.seal, err = newSealer(opening, to, passphrase); err != nil {
			return nil, err
		}
		w.to = w.seal
	}
	if _, err := to.Write(opening); err != nil {
		return nil, err
	}
	w.sum.Write(opening)
	encoded, err := proto.Marshal(cluster)
	if err != nil {
		return nil, err
	}
	return w, w.piece(encoded)
}

// Write adds a piece of the state.
func (w *Writer) Write(state []byte) (int, error) {
	written := 0
	for len(state) > 0 {
		n := min(len(state), pieceBytesMax)
		if err := w.piece(state[:n]); err != nil {
			return written, err
		}
		written, state = written+n, state[n:]
	}
	return written, nil
}

// Close ends the file; without it there is none.
func (w *Writer) Close() error {
	if err := w.piece(nil); err != nil {
		return err
	}
	if _, err := w.to.Write(w.sum.Sum(nil)); err != nil {
		return err
	}
	if w.seal != nil {
		return w.seal.Close()
	}
	return nil
}

func (w *Writer) piece(data []byte) error {
	for _, part := range [][]byte{binary.BigEndian.AppendUint32(nil, uint32(len(data))), data} {
		w.sum.Write(part)
		if _, err := w.to.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// Read hands what a file holds to restore and returns what the cluster was.
// restore must read the state to its end. Only a nil error says that the whole
// file is good: until then nothing may be made of what restore has read.
func Read(from io.Reader, passphrase []byte, restore func(state io.Reader) error) (*clusterv1.ClusterIdentity, error) {
	buffered := bufio.NewReaderSize(from, 256<<10)
	r := &reader{from: buffered, sum: sha256.New()}
	opening := make([]byte, openingLen)
	if err := r.full(opening); err != nil {
		return nil, err
	}
	if string(opening[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it is none: it does not begin with %s", ErrCorrupt, magic)
	}
	if got := binary.BigEndian.Uint32(opening[len(magic):]); got != format {
		return nil, fmt.Errorf("%w: its format is %d, this version of muster reads %d", ErrCorrupt, got, format)
	}
	switch protection := opening[len(opening)-1]; protection {
	case open:
	case encrypted:
		if len(passphrase) == 0 {
			return nil, ErrNoPassphrase
		}
		parameters := make([]byte, parametersLen)
		if err := r.full(parameters); err != nil {
			return nil, err
		}
		unsealed, err := newUnsealer(append(opening, parameters...), buffered, passphrase)
		if err != nil {
			return nil, err
		}
		r.from = unsealed
	default:
		return nil, fmt.Errorf("%w: protection %d", ErrCorrupt, protection)
	}
	return r.content(restore)
}

// reader reads content and sums it up.
type reader struct {
	from io.Reader
	sum  hash.Hash
	left int  // of the piece of state that is being read
	end  bool // of the state
}

func (r *reader) content(restore func(io.Reader) error) (*clusterv1.ClusterIdentity, error) {
	length, err := r.length(identityBytesMax)
	if err != nil {
		return nil, err
	}
	encoded, cluster := make([]byte, length), &clusterv1.ClusterIdentity{}
	if err := r.full(encoded); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(encoded, cluster); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := restore(stateReader{r}); err != nil {
		return nil, err
	}
	if n, err := io.Copy(io.Discard, stateReader{r}); err != nil || n > 0 {
		return nil, errors.Join(err, fmt.Errorf("%w: %d bytes behind the state", ErrCorrupt, n))
	}
	want, got := r.sum.Sum(nil), make([]byte, sha256.Size)
	if err := r.full(got); err != nil {
		return nil, err
	}
	if string(got) != string(want) {
		return nil, fmt.Errorf("%w: the checksum does not match", ErrCorrupt)
	}
	if n, err := r.from.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows its end", errors.Join(ErrCorrupt, err))
	}
	return cluster, nil
}

func (r *reader) full(into []byte) error {
	if _, err := io.ReadFull(r.from, into); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it ends too early", ErrCorrupt)
		}
		return err
	}
	r.sum.Write(into)
	return nil
}

func (r *reader) length(most int) (int, error) {
	var raw [4]byte
	if err := r.full(raw[:]); err != nil {
		return 0, err
	}
	length := binary.BigEndian.Uint32(raw[:])
	if uint64(length) > uint64(most) {
		return 0, fmt.Errorf("%w: a length of %d", ErrCorrupt, length)
	}
	return int(length), nil
}

// stateReader reads the state across its pieces.
type stateReader struct{ *reader }

func (r stateReader) Read(into []byte) (int, error) {
	for r.left == 0 {
		if r.end {
			return 0, io.EOF
		}
		var err error
		if r.left, err = r.length(pieceBytesMax); err != nil {
			return 0, err
		}
		r.end = r.left == 0
	}
	into = into[:min(len(into), r.left)]
	if err := r.full(into); err != nil {
		return 0, err
	}
	r.left -= len(into)
	return len(into), nil
}
