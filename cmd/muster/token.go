package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens with which machines join",
	}
	var target operatorFlags
	var role string
	create := &cobra.Command{
		Use:   "create --role server|agent",
		Short: "Make a join token and print it; the cluster keeps only a hash of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return target.call(cmd.Context(), func(c clusterv1.OperatorClient) error {
				response, err := c.CreateToken(cmd.Context(), &clusterv1.CreateTokenRequest{Role: role})
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), response.Token)
				}
				return err
			})
		},
	}
	create.Flags().StringVar(&role, "role", "agent", "what the token admits: agent (compute nodes) or server (control nodes)")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the join tokens, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return target.call(cmd.Context(), func(c clusterv1.OperatorClient) error {
				response, err := c.ListTokens(cmd.Context(), &clusterv1.ListTokensRequest{})
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "ID\tROLE\tCREATED")
				for _, t := range response.Tokens {
					fmt.Fprintf(w, "%s\t%s\t%s\n", t.Id, t.Role, time.Unix(t.Created, 0).UTC().Format(time.RFC3339))
				}
				return w.Flush()
			})
		},
	}
	revoke := &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a join token; machines that joined with it stay",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return target.call(cmd.Context(), func(c clusterv1.OperatorClient) error {
				_, err := c.DeleteToken(cmd.Context(), &clusterv1.DeleteTokenRequest{Id: args[0]})
				return err
			})
		},
	}
	for _, c := range []*cobra.Command{create, list, revoke} {
		target.add(c.Flags())
		cmd.AddCommand(c)
	}
	return cmd
}
