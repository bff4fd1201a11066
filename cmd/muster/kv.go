package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newKVCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "kv",
		Short: "Read and write the replicated store, key by key",
		Long: `Read and write the replicated store, key by key.

Keys are those of the store as they are: pods/NAMESPACE/NAME and the like hold
the cluster's objects in Kubernetes' protobuf form, muster/ what Muster keeps
for itself. Nothing checks what is written here. To change an object use kubectl.`,
	}, newKVGetCommand(), newKVListCommand(), newKVPutCommand(), newKVDeleteCommand(), newKVWatchCommand())
}

// kvItem is an item as -o json prints it. Keys and values that are not text
// are in the base64 fields instead.
type kvItem struct {
	Key            *string `json:"key,omitempty"`
	KeyBase64      []byte  `json:"keyBase64,omitempty"`
	Value          *string `json:"value,omitempty"`
	ValueBase64    []byte  `json:"valueBase64,omitempty"`
	CreateRevision uint64  `json:"createRevision"`
	Revision       uint64  `json:"revision"`
}

func newKVItem(item *clusterv1.KVItem, keyOnly bool) kvItem {
	out := kvItem{CreateRevision: item.CreateRevision, Revision: item.Revision}
	out.Key, out.KeyBase64 = textOrBytes(item.Key)
	if !keyOnly {
		out.Value, out.ValueBase64 = textOrBytes(item.Value)
	}
	return out
}

// kv asks the first control node that answers; ask may run again at another.
func (o *operatorFlags) kv(ctx context.Context, ask func(context.Context, clusterv1.KVClient) error) error {
	return o.each(func(conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
		defer cancel()
		return ask(ctx, clusterv1.NewKVClient(conn))
	})
}

// commit sends a transaction once. Another control node is asked only if this
// one was not reached, or said itself that it did nothing.
func (o *operatorFlags) commit(ctx context.Context, request *clusterv1.KVCommitRequest) (*clusterv1.KVCommitResponse, error) {
	var response *clusterv1.KVCommitResponse
	err := o.each(func(conn *grpc.ClientConn) (err error) {
		ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
		defer cancel()
		if err := reach(ctx, conn); err != nil {
			return err
		}
		var trailer metadata.MD
		response, err = clusterv1.NewKVClient(conn).Commit(ctx, request, grpc.Trailer(&trailer))
		code, answered := status.Code(err), len(trailer) > 0
		if code == codes.DeadlineExceeded || code == codes.Canceled || code == codes.Unavailable && !answered {
			return fmt.Errorf("no answer: it may or may not have been done, now or later (%s)", status.Convert(err).Message())
		}
		return err
	})
	return response, err
}

// reach returns once there is a connection.
func reach(ctx context.Context, conn *grpc.ClientConn) error {
	// A call that any control node answers without asking others.
	_, err := clusterv1.NewRaftClient(conn).ListPeers(ctx, &clusterv1.ListPeersRequest{})
	return err
}

func newKVGetCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.KVGetRequest
	)
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key",
		Long: `Print the value of a key, and a line break after it unless it ends with one.

A key that does not exist is an error: status 1.`,
		Example: `  muster operator kv get note
  muster operator kv get note --local --server 10.0.0.2:6443 -o json`,
		Args: words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Key = []byte(args[0])
			var response *clusterv1.KVGetResponse
			err := target.kv(cmd.Context(), func(ctx context.Context, c clusterv1.KVClient) (err error) {
				response, err = c.Get(ctx, &request)
				return err
			})
			if err != nil {
				return err
			}
			if response.Item == nil {
				return fmt.Errorf("no key %q at revision %d", args[0], response.Revision)
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), newKVItem(response.Item, false), false)
			}
			value := response.Item.Value
			if len(value) == 0 || value[len(value)-1] != '\n' {
				value = append(value, '\n')
			}
			_, err = cmd.OutOrStdout().Write(value)
			return err
		},
	}
	cmd.Flags().BoolVar(&request.Local, "local", false, "read what the control node that is asked has, which works without a leader and may be old")
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newKVListCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.KVListRequest
		limit   int
	)
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the keys that begin with a prefix, in order",
		Long: `List the keys that begin with a prefix, in order.

All keys are as they were at one revision, which -o json prints: a watch from
there misses nothing. A list that takes longer than the control nodes remember
what has changed since, ten minutes at most, ends with an error.`,
		Example: `  muster operator kv list pods/default/ --keys-only
  muster operator kv list --limit 10 -o json`,
		Args: words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return fmt.Errorf("--limit %d: want 0 or more", limit)
			}
			if len(args) > 0 {
				request.Prefix = []byte(args[0])
			}
			items, revision, more, err := target.list(cmd.Context(), &request, limit)
			if err != nil {
				return err
			}
			if form == outputJSON {
				list := struct {
					Revision uint64   `json:"revision"`
					More     bool     `json:"more"`
					Items    []kvItem `json:"items"`
				}{revision, more, []kvItem{}}
				for _, item := range items {
					list.Items = append(list.Items, newKVItem(item, request.KeysOnly))
				}
				return printJSON(cmd.OutOrStdout(), list, false)
			}
			return printKVItems(cmd.OutOrStdout(), items, request.KeysOnly)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&request.KeysOnly, "keys-only", false, "leave the values out")
	flags.BoolVar(&request.Local, "local", false, "read what the control node that is asked has, which works without a leader and may be old")
	flags.IntVar(&limit, "limit", 0, "list no more keys than this (0: all)")
	form.add(flags)
	target.add(flags)
	return cmd
}

// list reads page after page of one revision, 0: all.
func (o *operatorFlags) list(ctx context.Context, request *clusterv1.KVListRequest, limit int) (items []*clusterv1.KVItem, revision uint64, more bool, err error) {
	for {
		const pageMax = 1000
		request.Limit = pageMax
		if left := limit - len(items); limit > 0 && left < pageMax {
			request.Limit = uint32(left)
		}
		var page *clusterv1.KVListResponse
		err := o.kv(ctx, func(ctx context.Context, c clusterv1.KVClient) (err error) {
			page, err = c.List(ctx, request)
			return err
		})
		if err != nil {
			return nil, 0, false, err
		}
		revision = page.Revision
		items = append(items, page.Items...)
		if !page.More || len(items) == limit {
			return items, revision, page.More, nil
		}
		request.After, request.Revision = items[len(items)-1].Key, revision
	}
}

func printKVItems(to io.Writer, items []*clusterv1.KVItem, keysOnly bool) error {
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	if keysOnly {
		fmt.Fprintln(w, "KEY\tREVISION")
	} else {
		fmt.Fprintln(w, "KEY\tREVISION\tBYTES")
	}
	for _, item := range items {
		fmt.Fprintf(w, "%s\t%d", item.Key, item.Revision)
		if !keysOnly {
			fmt.Fprintf(w, "\t%d", len(item.Value))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// guardFlags say what a key must be like for a write to it.
type guardFlags struct {
	revision uint64
	exists   bool
}

func (g *guardFlags) add(cmd *cobra.Command) {
	cmd.Flags().Uint64Var(&g.revision, "if-revision", 0, "only if the key is at this revision, or with 0, only if it does not exist")
	cmd.Flags().BoolVar(&g.exists, "if-exists", false, "only if the key exists, at whatever revision")
	cmd.MarkFlagsMutuallyExclusive("if-revision", "if-exists")
}

func (g *guardFlags) guards(cmd *cobra.Command, key string) []*clusterv1.KVGuard {
	if !g.exists && !cmd.Flags().Changed("if-revision") {
		return nil
	}
	return []*clusterv1.KVGuard{{Key: []byte(key), Revision: g.revision, Exists: g.exists}}
}

func newKVPutCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
		guard  guardFlags
		file   string
	)
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE]",
		Short: "Set a key and print the revision that this took",
		Long:  `Set a key and print the revision that this took.`,
		Example: `  muster operator kv put note hello
  muster operator kv put note --file note.txt
  echo hello | muster operator kv put note --file - --if-revision 0`,
		Args: words(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 2) == (file != "") {
				return errors.New("put: want a value either as an argument or from --file")
			}
			op := &clusterv1.KVOp{Key: []byte(args[0])}
			var err error
			switch {
			case len(args) == 2:
				op.Value = []byte(args[1])
			case file == "-":
				op.Value, err = io.ReadAll(cmd.InOrStdin())
			default:
				op.Value, err = os.ReadFile(file)
			}
			if err != nil {
				return fmt.Errorf("read the value: %w", err)
			}
			response, err := target.commit(cmd.Context(), &clusterv1.KVCommitRequest{
				Guards: guard.guards(cmd, args[0]), Ops: []*clusterv1.KVOp{op},
			})
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), map[string]uint64{"revision": response.OpRevisions[0]}, false)
			}
			fmt.Fprintln(cmd.OutOrStdout(), response.OpRevisions[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file that holds the value, - for standard input")
	guard.add(cmd)
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

func newKVDeleteCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
		guard  guardFlags
	)
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Delete a key and print the revision that this took",
		Long: `Delete a key and print the revision that this took.

A key that does not exist is no error unless --if-exists or --if-revision demands it.`,
		Example: `  muster operator kv delete note
  muster operator kv delete note --if-revision 4711`,
		Args: words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			response, err := target.commit(cmd.Context(), &clusterv1.KVCommitRequest{
				Guards: guard.guards(cmd, args[0]), Ops: []*clusterv1.KVOp{{Key: []byte(args[0]), Delete: true}},
			})
			if err != nil {
				return err
			}
			revision := response.OpRevisions[0]
			if form == outputJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					Deleted  bool   `json:"deleted"`
					Revision uint64 `json:"revision"`
				}{revision != 0, response.Revision}, false)
			}
			if revision == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "no key %q at revision %d\n", args[0], response.Revision)
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), revision)
			return nil
		},
	}
	guard.add(cmd)
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}
