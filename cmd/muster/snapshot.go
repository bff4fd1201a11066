package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/control/backup"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newSnapshotCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "snapshot",
		Short: "Save the cluster to a file, look into one, and go back to one",
	}, newSnapshotSaveCommand(), newSnapshotInspectCommand(), newSnapshotRestoreCommand())
}

// passphraseFlags say where the passphrase is. It is never an argument, which
// every user of the machine could read.
type passphraseFlags struct{ file string }

func (p *passphraseFlags) add(flags *pflag.FlagSet, usage string) {
	flags.StringVar(&p.file, "passphrase-file", "", usage)
}

// read returns nothing when there is none.
func (p *passphraseFlags) read(stdin io.Reader) ([]byte, error) {
	var text []byte
	var err error
	switch p.file {
	case "":
		return nil, nil
	case "-":
		text, err = io.ReadAll(stdin)
	default:
		text, err = os.ReadFile(p.file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	if text = bytes.TrimRight(text, "\r\n"); len(text) == 0 {
		return nil, errors.New("passphrase-file: the passphrase is empty")
	}
	return text, nil
}

// snapshotReport is what a file holds, as -o json prints it.
type snapshotReport struct {
	ClusterID string         `json:"clusterID"`
	SavedBy   string         `json:"savedBy"`
	Version   string         `json:"version"`
	Saved     time.Time      `json:"saved"`
	Revision  uint64         `json:"revision"`
	Encrypted bool           `json:"encrypted"`
	Bytes     int64          `json:"bytes"` // of the file
	Kinds     []snapshotKind `json:"kinds"`

	caKey []byte // PEM; for a restore, never printed
}

type snapshotKind struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
	Bytes int64  `json:"bytes"`
}

func newSnapshotSaveCommand() *cobra.Command {
	var (
		target     operatorFlags
		form       output
		passphrase passphraseFlags
		request    clusterv1.SaveSnapshotRequest
	)
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Save the store and the cluster's keys to one file",
		Long: `Save the store and the cluster's keys to one file, which must not exist yet.

The file holds all that makes the cluster, with the keys of its CA: whoever can
read it can be anybody in the cluster. With --passphrase-file it is encrypted.
It is read back and checked before the command ends with status 0.`,
		Example: `  muster operator snapshot save cluster.snapshot
  muster operator snapshot save cluster.snapshot --passphrase-file /etc/muster/passphrase
  muster operator snapshot save last.snapshot --local --server 10.0.0.2:6443`,
		Args: words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			secret, err := passphrase.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			if _, err := os.Lstat(args[0]); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s exists already", args[0])
			}
			err = target.each(func(conn *grpc.ClientConn) error {
				return saveSnapshot(cmd.Context(), clusterv1.NewSnapshotClient(conn), &request, args[0], secret)
			})
			if err != nil {
				return err
			}
			return inspectSnapshot(cmd.OutOrStdout(), args[0], secret, form)
		},
	}
	cmd.Flags().BoolVar(&request.Local, "local", false, "save what the control node that is asked has, which works without a leader and may be old")
	passphrase.add(cmd.Flags(), "file that holds a passphrase to encrypt with, - for standard input")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

// saveSnapshot writes beside the file first, so that a file of that name is a
// whole one.
func saveSnapshot(ctx context.Context, c clusterv1.SnapshotClient, request *clusterv1.SaveSnapshotRequest, path string, passphrase []byte) error {
	stream, err := c.Save(ctx, request)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	// A new file, and its owner's only, whatever lies there: it holds keys.
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return err
	}
	partial := file.Name()
	err = func() error {
		w, err := backup.NewWriter(file, first.Cluster, passphrase)
		if err != nil {
			return err
		}
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if _, err := w.Write(message.State); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
		return file.Sync()
	}()
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(partial, path)
	}
	if err != nil {
		_ = os.Remove(partial)
	}
	return err
}

func newSnapshotInspectCommand() *cobra.Command {
	var (
		form       output
		passphrase passphraseFlags
	)
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Check a saved cluster and print what it holds",
		Long: `Check a saved cluster and print what it holds, by kind. It asks no cluster.

A file with as much as one wrong byte is refused: status 1.`,
		Example: `  muster operator snapshot inspect cluster.snapshot
  muster operator snapshot inspect cluster.snapshot -o json --passphrase-file /etc/muster/passphrase`,
		Args: words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			secret, err := passphrase.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			return inspectSnapshot(cmd.OutOrStdout(), args[0], secret, form)
		},
	}
	passphrase.add(cmd.Flags(), "file that holds the passphrase, - for standard input")
	form.add(cmd.Flags())
	return cmd
}

func inspectSnapshot(to io.Writer, path string, passphrase []byte, form output) error {
	report, err := readReport(path, passphrase)
	if err != nil {
		return err
	}
	if form == outputJSON {
		return printJSON(to, report, false)
	}
	return report.print(to)
}

// readReport reads and checks a whole file.
func readReport(path string, passphrase []byte) (*snapshotReport, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	report, err := backup.Inspect(file, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := &snapshotReport{
		ClusterID: report.Cluster.ClusterId, SavedBy: report.Cluster.SavedBy, Version: report.Cluster.Version,
		Saved: time.Unix(report.Cluster.Saved, 0).UTC(), Revision: report.Revision,
		Encrypted: report.Encrypted, Bytes: info.Size(), Kinds: []snapshotKind{},
		caKey: report.Cluster.CaKey,
	}
	for _, kind := range report.Kinds {
		out.Kinds = append(out.Kinds, snapshotKind(kind))
	}
	return out, nil
}

func (r *snapshotReport) print(to io.Writer) error {
	encrypted := "not encrypted"
	if r.Encrypted {
		encrypted = "encrypted"
	}
	fmt.Fprintf(to, "cluster %s at revision %d, saved %s by %s; %d bytes, %s\n\n",
		r.ClusterID, r.Revision, r.Saved.Format(time.RFC3339), r.SavedBy, r.Bytes, encrypted)
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "KIND\tCOUNT\tBYTES")
	for _, kind := range r.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%d\n", kind.Name, kind.Count, kind.Bytes)
	}
	return w.Flush()
}
