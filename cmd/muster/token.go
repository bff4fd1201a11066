package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newTokenCommand() *cobra.Command {
	var (
		target  operatorFlags
		form    output
		request clusterv1.CreateTokenRequest
	)
	create := &cobra.Command{
		Use:   "create --role server|agent|api",
		Short: "Make a token and print it; the cluster keeps only a hash of it",
		Example: `  muster token create
  muster token create --role server
  muster token create --role api --user jane --group system:masters`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return target.call(cmd.Context(), func(ctx context.Context, c clusterv1.OperatorClient) error {
				response, err := c.CreateToken(ctx, &request)
				if err != nil {
					return err
				}
				if form == outputJSON {
					return printJSON(cmd.OutOrStdout(), map[string]string{"token": response.Token}, false)
				}
				fmt.Fprintln(cmd.OutOrStdout(), response.Token)
				return nil
			})
		},
	}
	create.Flags().StringVar(&request.Role, "role", "agent", "what the token admits: agent (compute nodes), server (control nodes) or api (its bearer, to the Kubernetes API)")
	create.Flags().StringVar(&request.User, "user", "", "with --role api: name of the bearer")
	create.Flags().StringSliceVar(&request.Groups, "group", nil, "with --role api: group of the bearer, such as system:masters; may be given several times")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without their secrets",
		Example: `  muster token list
  muster token list -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return target.call(cmd.Context(), func(ctx context.Context, c clusterv1.OperatorClient) error {
				response, err := c.ListTokens(ctx, &clusterv1.ListTokensRequest{})
				if err != nil {
					return err
				}
				if form == outputJSON {
					return printJSON(cmd.OutOrStdout(), newTokenList(response), false)
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "ID\tROLE\tCREATED\tUSER\tGROUPS")
				for _, t := range response.Tokens {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.Id, t.Role, time.Unix(t.Created, 0).UTC().Format(time.RFC3339), t.User, strings.Join(t.Groups, ","))
				}
				return w.Flush()
			})
		},
	}
	revoke := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke a token; machines that joined with it stay",
		Example: `  muster token revoke 757f3057`,
		Args:    words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return target.call(cmd.Context(), func(ctx context.Context, c clusterv1.OperatorClient) error {
				_, err := c.DeleteToken(ctx, &clusterv1.DeleteTokenRequest{Id: args[0]})
				if err == nil && form == outputJSON {
					return printJSON(cmd.OutOrStdout(), map[string]string{"revoked": args[0]}, false)
				}
				return err
			})
		},
	}
	for _, c := range []*cobra.Command{create, list, revoke} {
		form.add(c.Flags())
		target.add(c.Flags())
	}
	return group(&cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens with which machines join and users are known",
	}, create, list, revoke)
}

// joinToken is a token without its secret, as -o json prints it.
type joinToken struct {
	ID      string    `json:"id"`
	Role    string    `json:"role"`
	Created time.Time `json:"created"`
	User    string    `json:"user,omitempty"`
	Groups  []string  `json:"groups,omitempty"`
}

func newTokenList(r *clusterv1.ListTokensResponse) map[string][]joinToken {
	tokens := []joinToken{}
	for _, t := range r.Tokens {
		tokens = append(tokens, joinToken{ID: t.Id, Role: t.Role, Created: time.Unix(t.Created, 0).UTC(), User: t.User, Groups: t.Groups})
	}
	return map[string][]joinToken{"tokens": tokens}
}
