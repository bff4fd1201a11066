package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// kvEvent is a change as -o json prints it.
type kvEvent struct {
	Type        string  `json:"type"` // put or delete
	Key         *string `json:"key,omitempty"`
	KeyBase64   []byte  `json:"keyBase64,omitempty"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"valueBase64,omitempty"`
	Revision    uint64  `json:"revision"`
}

func newKVWatchCommand() *cobra.Command {
	var (
		target operatorFlags
		w      kvWatch
	)
	cmd := &cobra.Command{
		Use:   "watch [PREFIX]",
		Short: "Print every change of the keys that begin with a prefix, until interrupted",
		Long: `Print every change of the keys that begin with a prefix, until interrupted.

A change is one line: its revision, put or delete, the key and the size of the
value; with -o json one JSON object, with the value. When the connection breaks
the watch goes on, at whichever of the control nodes given with --server
answers, from where it was: nothing is missing and nothing comes twice.

Without a leader nothing changes: a watch from --after prints what the control
node has and waits; one from the newest change can't tell which that is, and fails.`,
		Example: `  muster operator kv watch pods/
  muster operator kv watch note --after 4711 --count 1 -o json`,
		Args: words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				w.prefix = []byte(args[0])
			}
			w.to = cmd.OutOrStdout()
			if !cmd.Flags().Changed("after") {
				// What is committed now is the past.
				_, revision, _, err := target.list(cmd.Context(), &clusterv1.KVListRequest{Prefix: w.prefix, KeysOnly: true}, 1)
				if err != nil {
					return err
				}
				w.after = revision
			}
			return w.run(cmd.Context(), &target)
		},
	}
	cmd.Flags().Uint64Var(&w.after, "after", 0, "print changes after this revision, the past ones too (default: the newest)")
	cmd.Flags().IntVar(&w.count, "count", 0, "end with status 0 after this many changes (0: go on)")
	w.form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

type kvWatch struct {
	prefix []byte
	after  uint64 // all up to here is printed
	count  int
	form   output
	to     io.Writer

	printed int
}

var errCounted = errors.New("as many changes as asked for")

// resumePause is waited before a broken watch is resumed.
const resumePause = 200 * time.Millisecond

// run watches until interrupted. A watch that breaks is resumed; one that
// can't be begun is an error.
func (w *kvWatch) run(ctx context.Context, target *operatorFlags) error {
	for {
		began, broken := false, false
		err := target.each(func(conn *grpc.ClientConn) error {
			err := w.once(ctx, clusterv1.NewKVClient(conn), &began)
			broken = began && status.Code(err) == codes.Unavailable
			if ctx.Err() != nil || errors.Is(err, errCounted) || broken {
				return nil
			}
			return err
		})
		if err != nil || !broken || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(resumePause):
		case <-ctx.Done():
			return nil
		}
	}
}

// once watches at one control node from where the watch is.
func (w *kvWatch) once(ctx context.Context, c clusterv1.KVClient, began *bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Watch(ctx, &clusterv1.KVWatchRequest{Prefix: w.prefix, After: w.after})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		*began = true
		for _, event := range message.Events {
			if err := w.print(event); err != nil {
				return err
			}
			if w.printed++; w.printed == w.count {
				return errCounted
			}
		}
		w.after = message.Revision
	}
}

func (w *kvWatch) print(event *clusterv1.KVEvent) error {
	kind := "put"
	if event.Delete {
		kind = "delete"
	}
	if w.form == outputJSON {
		out := kvEvent{Type: kind, Revision: event.Revision}
		out.Key, out.KeyBase64 = textOrBytes(event.Key)
		if !event.Delete {
			out.Value, out.ValueBase64 = textOrBytes(event.Value)
		}
		return printJSON(w.to, out, true)
	}
	_, err := fmt.Fprintf(w.to, "%d\t%s\t%s\t%d\n", event.Revision, kind, event.Key, len(event.Value))
	return err
}
