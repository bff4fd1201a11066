package identity

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// Files of a node directory. The description is written last: without it the
// directory holds no identity.
const (
	descriptionFile = "identity.json"
	pkiDir          = "pki"
	caFile          = "pki/ca.crt"
	certificateFile = "pki/node.crt"
	keyFile         = "pki/node.key"
	// nextKeyFile exists from before a renewed certificate is written until
	// its key has taken keyFile's place.
	nextKeyFile = "pki/node.key.next"
)

const descriptionVersion = 1

// description is identity.json. It holds the gossip key, so only its owner may read it.
type description struct {
	Version   int             `json:"version"`
	Name      string          `json:"name"`
	Role      Role            `json:"role"`
	ClusterID string          `json:"clusterID"`
	Servers   []string        `json:"servers"`
	GossipKey []byte          `json:"gossipKey"`
	Settings  json.RawMessage `json:"settings,omitempty"`
}

// Save writes the identity to a node directory, and from then on keeps the
// directory current when the certificate or the servers change.
func (id *Identity) Save(dir string) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if err := os.MkdirAll(filepath.Join(dir, pkiDir), 0o700); err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(dir, caFile), id.CACert, 0o644); err != nil {
		return err
	}
	current := id.Certificate()
	if err := writeKeyPair(dir, current); err != nil {
		return err
	}
	if err := id.writeDescription(dir); err != nil {
		return err
	}
	id.dir = dir
	return nil
}

// Load reads the identity in a node directory. The error is fs.ErrNotExist
// when there is none; any other says in one line what is damaged and what to
// do. An agent's certificate that has expired is an error too, because only a
// new token helps then; a control node can sign itself a new one.
func Load(dir string) (*Identity, error) {
	path := filepath.Join(dir, descriptionFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no node: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	damaged := func(file string, err error) error {
		return fmt.Errorf("%s: %w (restore the file from a backup, or empty %s and join again with a new token)", filepath.Join(dir, file), err, dir)
	}
	var d description
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, damaged(descriptionFile, fmt.Errorf("damaged: %w", err))
	}
	if d.Version > descriptionVersion {
		return nil, fmt.Errorf("%s has version %d, written by a newer muster; this one reads up to %d: install the newer one again", path, d.Version, descriptionVersion)
	}
	if d.Version < 1 {
		return nil, damaged(descriptionFile, errors.New("damaged: the version is missing"))
	}
	settings := &clusterv1.ClusterSettings{}
	if len(d.Settings) > 0 {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(d.Settings, settings); err != nil {
			return nil, damaged(descriptionFile, fmt.Errorf("damaged settings: %w", err))
		}
	}

	files := map[string][]byte{}
	for _, file := range []string{caFile, certificateFile, keyFile} {
		if files[file], err = os.ReadFile(filepath.Join(dir, file)); errors.Is(err, fs.ErrNotExist) {
			return nil, damaged(file, errors.New("missing"))
		} else if err != nil {
			return nil, fmt.Errorf("read the node's identity: %w", err)
		}
	}
	if _, err := parseCA(files[caFile]); err != nil {
		return nil, damaged(caFile, err)
	}
	if _, err := parseCertificates(files[certificateFile]); err != nil {
		return nil, damaged(certificateFile, err)
	}
	key, err := ParseKey(files[keyFile])
	if err != nil {
		return nil, damaged(keyFile, err)
	}
	if key, err = finishRenewal(dir, files[certificateFile], key); err != nil {
		return nil, err
	}
	id, err := New(Params{
		Name: d.Name, Role: d.Role, ClusterID: d.ClusterID, CACert: files[caFile],
		GossipKey: d.GossipKey, Servers: d.Servers, Settings: settings,
	}, files[certificateFile], key)
	if err != nil {
		return nil, fmt.Errorf("the files in %s do not fit together: %w (restore them from one backup, or empty %s and join again with a new token)", dir, err, dir)
	}
	if end := id.Certificate().Leaf.NotAfter; id.Role == Agent && time.Now().After(end) {
		return nil, fmt.Errorf("%s expired on %s: correct this machine's clock if it is wrong, otherwise empty %s and join again with a new token",
			filepath.Join(dir, certificateFile), end.Format(time.DateOnly), dir)
	}
	id.dir = dir
	return id, nil
}

// KeyFor gives the key to join with: the one in dir when an earlier attempt
// left it there, otherwise a new one, written before it is used. A machine that
// did not hear the answer to its first attempt is known by its key when it
// tries again.
func KeyFor(dir string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	if err == nil {
		if key, err := ParseKey(text); err == nil {
			return key, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	encoded, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return key, WriteFile(path, encoded, 0o600)
}

// writeDescription is called with mu held.
func (id *Identity) writeDescription(dir string) error {
	settings, err := protojson.Marshal(id.Settings)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(description{
		Version: descriptionVersion, Name: id.Name, Role: id.Role, ClusterID: id.ClusterID,
		Servers: id.servers, GossipKey: id.GossipKey, Settings: settings,
	}, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, descriptionFile), append(text, '\n'), 0o600)
}

// WriteFile replaces a file so that, whatever happens, a reader finds either
// the old content or the new one, and after it returned the new one.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // gone after the rename
	_, err = temp.Write(content)
	if err == nil {
		err = temp.Chmod(mode)
	}
	if err == nil {
		err = temp.Sync()
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
