package control

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/backup"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// restoringFile exists while a directory is being made from a saved cluster: what
// is there then is no node yet. It holds nothing.
const restoringFile = ".restoring"

// leftOutOfRestore are keys of a saved state that are of what was under way then.
const leftOutOfRestore = "muster/restore/"

// restorePlace makes an empty directory the first node of a saved cluster: with
// its identity, keys and state, and without its other control nodes. The file
// is checked in full before anything is written.
func restorePlace(cfg *Config) (*place, error) {
	if err := checkEmpty(cfg.Dir); err != nil {
		return nil, err
	}
	machine := fsm.New(fsm.Config{})
	cluster, err := readCluster(cfg.Restore, cfg.RestorePassphrase, machine)
	if err != nil {
		return nil, fmt.Errorf("restore: %s: %w", cfg.Restore, err)
	}
	authority, err := pki.FromPEM(cluster.CaCertificate, cluster.CaKey, cluster.ServiceAccountKey)
	if err != nil {
		return nil, fmt.Errorf("restore: %s: the keys in it: %w", cfg.Restore, err)
	}
	if err := claimName(machine, cfg.Name); err != nil {
		return nil, fmt.Errorf("restore: %s: %w", cfg.Restore, err)
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	certificate, err := authority.SignServer(cfg.Name, cfg.hosts(), key.Public())
	if err != nil {
		return nil, err
	}
	cfg.Settings = cluster.Settings
	id, err := identity.New(identity.Params{
		Name: cfg.Name, Role: identity.Server, ClusterID: cluster.ClusterId, CACert: authority.CertificatePEM(),
		GossipKey: cluster.GossipKey, Servers: []string{cfg.Address}, Settings: cluster.Settings,
	}, certificate, key)
	if err != nil {
		return nil, fmt.Errorf("restore: %s: %w", cfg.Restore, err)
	}

	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	marker := filepath.Join(cfg.Dir, restoringFile)
	if err := identity.WriteFile(marker, nil, 0o600); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	seed := consensus.Offline{Dir: cfg.Dir, StateMachine: machine, Logger: cfg.Logger.With("part", "consensus")}
	if err := consensus.Seed(seed, cluster.ClusterId, cfg.Name, cfg.Address); err != nil {
		return nil, err
	}
	if err := identity.WriteFile(filepath.Join(cfg.Dir, founderFile), []byte(cluster.ClusterId+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	if err := authority.Save(cfg.Dir); err != nil {
		return nil, err
	}
	if err := id.Save(cfg.Dir); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Remove(marker), syncDir(cfg.Dir)); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	cfg.Logger.Info("a cluster was made of a saved one", "cluster", cluster.ClusterId, "saved by", cluster.SavedBy, "revision", machine.Revision())
	return &place{id: id, authority: authority, founder: true, bootstrap: true}, nil
}

// readCluster reads a whole file into a machine.
func readCluster(path string, passphrase []byte, machine *fsm.Machine) (*clusterv1.ClusterIdentity, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return backup.Read(file, passphrase, func(state io.Reader) error {
		return machine.Replace(state, leftOutOfRestore, store.RevisionStep)
	})
}

// claimName refuses a name that a compute node of the saved cluster has.
func claimName(machine *fsm.Machine, name string) error {
	st := store.New(nil, machine)
	if format := st.Format(); format > fsm.Format {
		return fmt.Errorf("that cluster writes commands of format %d, and this muster reads up to %d: take the newer version", format, fsm.Format)
	}
	names := names{store: st}
	holder, _, err := names.find(name)
	if errors.Is(err, store.ErrNotFound) || err == nil && holder.Role == identity.Server {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("name: %q is a compute node's in that cluster: choose another", name)
}

// checkEmpty refuses a directory with anything in it, except what a restore
// that was interrupted had made, which goes.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("dir: %w", err)
	}
	_, err = os.Stat(filepath.Join(dir, restoringFile))
	interrupted := err == nil
	for _, e := range entries {
		switch {
		case e.Name() == "lost+found", e.Name() == restoringFile:
		case !interrupted:
			return fmt.Errorf("dir: %s is in use (it holds %s): a saved cluster is restored into an empty directory; nothing was changed", dir, e.Name())
		default:
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("dir: remove what an interrupted restore left: %w", err)
			}
		}
	}
	return nil
}

// checkRestored refuses a directory whose restore was interrupted.
func checkRestored(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, restoringFile)); err == nil {
		return fmt.Errorf("%s is half of a restore that was interrupted: give --init --restore again to repeat it", dir)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
