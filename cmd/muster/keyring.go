package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newKeyringCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "keyring",
		Short: "Show and change the keys of stored secrets and of service accounts' tokens",
		Long: `Show and change the keys that secrets are encrypted with where they are stored,
or, with --tokens, those that service accounts' tokens are signed with.

Secrets are encrypted before they enter the log, so that no log, snapshot or
saved cluster holds them in the clear. The keys are part of the cluster's state,
encrypted themselves with a key that only control nodes' directories hold.`,
	}, newKeyringListCommand(), newKeyringRotateCommand(), newKeyringRewriteCommand(), newKeyringRemoveCommand())
}

// sealingKeys is what -o json prints.
type sealingKeys struct {
	Keys  []sealingKey `json:"keys"`
	Clear uint64       `json:"clear"` // values that are not encrypted
}

type sealingKey struct {
	ID      string     `json:"id"`
	Created *time.Time `json:"created,omitempty"` // not there: with the cluster
	Primary bool       `json:"primary"`
	Values  uint64     `json:"values"`
	From    *time.Time `json:"from,omitempty"` // when it will be used
}

func newKeyringListCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.ListKeysRequest
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys, and how many secrets are encrypted with each",
		Example: `  muster operator keyring list
  muster operator keyring list -o json | jq -r '.keys[] | select(.primary | not) | .id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var response *clusterv1.ListKeysResponse
			err := target.keyring(func(c clusterv1.KeyringClient) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				response, err = c.List(ctx, &request)
				return err
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), newSealingKeys(response), false)
			}
			if request.Tokens {
				return printSigningKeys(cmd.OutOrStdout(), response)
			}
			return printKeys(cmd.OutOrStdout(), response)
		},
	}
	cmd.Flags().BoolVar(&request.Tokens, "tokens", false, "list the keys that service accounts' tokens are signed with")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newSealingKeys(r *clusterv1.ListKeysResponse) sealingKeys {
	out := sealingKeys{Keys: []sealingKey{}, Clear: r.Clear}
	for _, k := range r.Keys {
		out.Keys = append(out.Keys, sealingKey{ID: k.Id, Created: timeOf(k.Created), Primary: k.Primary, Values: k.Values, From: timeOf(k.From)})
	}
	return out
}

// timeOf is nil for 0.
func timeOf(seconds int64) *time.Time {
	if seconds == 0 {
		return nil
	}
	t := time.Unix(seconds, 0).UTC()
	return &t
}

func printSigningKeys(to io.Writer, r *clusterv1.ListKeysResponse) error {
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "KEY\tCREATED\tSIGNS")
	for _, k := range r.Keys {
		created, signs := "with the cluster", "no"
		if t := timeOf(k.Created); t != nil {
			created = t.Format(time.RFC3339)
		}
		switch from := timeOf(k.From); {
		case k.Primary:
			signs = "yes"
		case from != nil:
			signs = "from " + from.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", k.Id, created, signs)
	}
	return w.Flush()
}

func printKeys(to io.Writer, r *clusterv1.ListKeysResponse) error {
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "KEY\tCREATED\tPRIMARY\tSECRETS")
	for _, k := range r.Keys {
		primary := "no"
		if k.Primary {
			primary = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", k.Id, time.Unix(k.Created, 0).UTC().Format(time.RFC3339), primary, k.Values)
	}
	if r.Clear > 0 {
		fmt.Fprintf(w, "(not encrypted)\t\t\t%d\n", r.Clear)
	}
	return w.Flush()
}

func newKeyringRotateCommand() *cobra.Command {
	var request clusterv1.RotateKeysRequest
	cmd := newRewritingCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Make a new key, and encrypt all secrets anew with it",
		Long: `Make a new key, and encrypt all secrets anew with it.

What is written once the new key is there is encrypted with it, on every control
node. Then the secrets that were written before are rewritten one by one, which
their watchers see as changes. If that is broken off, muster operator keyring
rewrite goes on. The old keys stay until they are removed.

With --tokens a key for service accounts' tokens is made. All control nodes accept
it at once and publish it; after an hour, when whoever keeps the published keys
must have read it, new tokens are signed with it. Older keys stay until they are
removed, and with them the tokens that they signed.`,
		Example: `  muster operator keyring rotate
  muster operator keyring remove 5d0c3f6a91b2e847
  muster operator keyring rotate --tokens`,
	}, func(ctx context.Context, c clusterv1.KeyringClient) (grpc.ServerStreamingClient[clusterv1.RewriteProgress], error) {
		return c.Rotate(ctx, &request)
	})
	cmd.Flags().BoolVar(&request.Tokens, "tokens", false, "make a key that service accounts' tokens are signed with")
	return cmd
}

func newKeyringRewriteCommand() *cobra.Command {
	return newRewritingCommand(&cobra.Command{
		Use:   "rewrite",
		Short: "Encrypt with the primary key all secrets that are not",
		Long: `Encrypt with the primary key all secrets that are not: after a rotate that was
broken off, a restore of a saved cluster, or an upgrade from a version that did
not encrypt them.`,
		Example: `  muster operator keyring rewrite`,
	}, func(ctx context.Context, c clusterv1.KeyringClient) (grpc.ServerStreamingClient[clusterv1.RewriteProgress], error) {
		return c.Rewrite(ctx, &clusterv1.RewriteRequest{})
	})
}

// newRewritingCommand makes a verb of which open's stream tells the progress.
func newRewritingCommand(cmd *cobra.Command, open func(context.Context, clusterv1.KeyringClient) (grpc.ServerStreamingClient[clusterv1.RewriteProgress], error)) *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var last *clusterv1.RewriteProgress
		err := target.keyring(func(c clusterv1.KeyringClient) error {
			stream, err := open(cmd.Context(), c)
			if err != nil {
				return err
			}
			last, err = follow(stream, cmd.ErrOrStderr())
			if err != nil && last != nil {
				// Not wrapped: no other control node is to be asked for one more key.
				err = fmt.Errorf("%s; the primary key is %s, and muster operator keyring rewrite goes on", transport.Reason(err), last.Id)
			}
			return err
		})
		if err != nil {
			return err
		}
		if form == outputJSON {
			return printJSON(cmd.OutOrStdout(), map[string]any{"primary": last.Id, "rewritten": last.Total}, false)
		}
		if tokens := cmd.Flags().Lookup("tokens"); tokens != nil && tokens.Changed {
			fmt.Fprintf(cmd.OutOrStdout(), "the new key is %s; tokens are signed with it in an hour\n", last.Id)
			return nil
		}
		fmt.Fprintf(cmd.OutOrStdout(), "the primary key is %s; %d secrets were rewritten\n", last.Id, last.Total)
		return nil
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

// progressEvery is how many rewritten secrets a line of progress is for.
const progressEvery = 1000

// follow reads progress to its end and says it now and then.
func follow(stream grpc.ServerStreamingClient[clusterv1.RewriteProgress], to io.Writer) (last *clusterv1.RewriteProgress, err error) {
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) && last != nil {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		// Several are rewritten at a time, so counts may come out of order.
		if last == nil || p.Done >= last.Done {
			last = p
		}
		if p.Done > 0 && p.Done%progressEvery == 0 {
			fmt.Fprintf(to, "%d of %d secrets rewritten\n", p.Done, p.Total)
		}
	}
}

func newKeyringRemoveCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.RemoveKeyRequest
	)
	cmd := &cobra.Command{
		Use:   "remove KEY",
		Short: "Remove a key that no secret is encrypted with, for good",
		Long: `Remove a key that no secret is encrypted with, for good.

With --tokens, the tokens that the key has signed are refused from then on. If the
newest key is left alone it signs at once.

The primary key and keys in use are refused. Clusters that were saved while the
key was in use keep it, in the file.`,
		Example: `  muster operator keyring remove 5d0c3f6a91b2e847`,
		Args:    words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return target.keyring(func(c clusterv1.KeyringClient) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				request.Id = args[0]
				_, err := c.Remove(ctx, &request)
				if err == nil && form == outputJSON {
					return printJSON(cmd.OutOrStdout(), map[string]string{"removed": args[0]}, false)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&request.Tokens, "tokens", false, "remove a key that service accounts' tokens are signed with")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func (o *operatorFlags) keyring(ask func(clusterv1.KeyringClient) error) error {
	return o.each(func(conn *grpc.ClientConn) error { return ask(clusterv1.NewKeyringClient(conn)) })
}
