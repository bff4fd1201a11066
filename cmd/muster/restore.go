package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/control/backup"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// restoreReport is what a restore has done, as -o json prints it.
type restoreReport struct {
	ClusterID     string    `json:"clusterID"` // of the file
	Saved         time.Time `json:"saved"`
	SavedRevision uint64    `json:"savedRevision"`
	Revision      uint64    `json:"revision"`
	Items         uint64    `json:"items"`
}

func newSnapshotRestoreCommand() *cobra.Command {
	var (
		target     operatorFlags
		form       output
		passphrase passphraseFlags
		yes        bool
		foreign    bool
	)
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Replace the state of the running cluster by a saved one",
		Long: `Replace the state of the running cluster by a saved one: every pod, node,
namespace and so on becomes what it was, and what was made since is gone.

The cluster must have a leader; the control nodes, their keys, tokens and the
names of machines stay as they are. The file is checked in full before anything
changes, here and by the leader, and the state is replaced on all control nodes
at one point: a write that is under way is before it, and gone, or after it.
Resource versions jump ahead, so that every watch ends and begins anew.

Compute nodes stop pods that the saved state does not have, and start those it
has. A file of another cluster is refused unless --foreign is given; then its
objects are taken and its identity is not. A new cluster is made of a file by
muster server --init --restore.

The command says what it is about to do and asks; without a terminal it needs --yes.

  muster operator snapshot restore /backup/20261123T190000Z-c1-r000000000512.snapshot
  muster operator snapshot restore --yes -o json --passphrase-file /etc/muster/passphrase cluster.snapshot`,
		Args: words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if passphrase.file == "-" && !yes {
				return errors.New("--passphrase-file - takes standard input, so the question cannot be answered there: give --yes as well")
			}
			secret, err := passphrase.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			report, err := readReport(args[0], secret)
			if err != nil {
				return err
			}
			if !yes {
				// On standard error, so that -o json stays JSON.
				fmt.Fprint(cmd.ErrOrStderr(), "The state of the running cluster, all of it, will be replaced by this:\n\n")
				if err := report.print(cmd.ErrOrStderr()); err != nil {
					return err
				}
				if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			var response *clusterv1.RestoreSnapshotResponse
			err = target.leader(cmd.Context(), func(conn *grpc.ClientConn) error {
				response, err = restoreSnapshot(cmd.Context(), clusterv1.NewSnapshotClient(conn), args[0], secret, report, foreign)
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), restoreReport{
					ClusterID: report.ClusterID, Saved: report.Saved,
					SavedRevision: response.SavedRevision, Revision: response.Revision, Items: response.Items,
				}, false)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored %d objects as they were at revision %d; the revision is %d now\n",
				response.Items, response.SavedRevision, response.Revision)
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&foreign, "foreign", false, "take the state of a file that is of another cluster")
	passphrase.add(cmd.Flags(), "file that holds the passphrase, - for standard input")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

// confirm wants the word yes, from a terminal.
func confirm(in io.Reader, out io.Writer) error {
	if file, ok := in.(*os.File); ok {
		if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
			return errors.New("nothing was changed: standard input is no terminal, so nobody can be asked; give --yes")
		}
	}
	fmt.Fprint(out, "\nType yes to go on: ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was changed: the answer was not yes")
	}
	return nil
}

// restoreSnapshot sends a file's state. Its sum is checked once more on the way: the
// last piece is only sent when the file has turned out to be whole.
func restoreSnapshot(ctx context.Context, c clusterv1.SnapshotClient, path string, passphrase []byte, report *snapshotReport, foreign bool) (*clusterv1.RestoreSnapshotResponse, error) {
	ctx, cancel := context.WithCancel(ctx) // what is not closed in order must not look whole
	defer cancel()
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	stream, err := c.Restore(ctx)
	if err != nil {
		return nil, err
	}
	refused := errors.New("refused")
	send := func(r *clusterv1.RestoreSnapshotRequest) error {
		if stream.Send(r) != nil {
			return refused // and why is what is received
		}
		return nil
	}
	first := &clusterv1.RestoreSnapshotRequest{ClusterId: report.ClusterID, Foreign: foreign}
	if foreign {
		first.CaKey = report.caKey
	}
	err = send(first)
	if err == nil {
		_, err = backup.Read(file, passphrase, func(state io.Reader) error {
			piece := make([]byte, 1<<20)
			for {
				n, err := io.ReadFull(state, piece)
				if n > 0 {
					if err := send(&clusterv1.RestoreSnapshotRequest{State: bytes.Clone(piece[:n])}); err != nil {
						return err
					}
				}
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					return nil
				}
				if err != nil {
					return err
				}
			}
		})
	}
	if err != nil && !errors.Is(err, refused) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return stream.CloseAndRecv()
}
