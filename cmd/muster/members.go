package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newMembersCommand() *cobra.Command {
	var target operatorFlags
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the nodes of the cluster, whether they are alive, and who leads",
		Long: `List the nodes of the cluster, whether they are alive, and who leads.

Any control node answers, also one that has lost the others; it then says so.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return target.call(cmd.Context(), func(c clusterv1.OperatorClient) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				response, err := c.Members(ctx, &clusterv1.MembersRequest{})
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "NAME\tROLE\tADDRESS\tSTATE\tVERSION\tLEADER")
				for _, m := range response.Members {
					leader := ""
					switch {
					case m.Leader:
						leader = "yes"
					case m.Role == "server" && !m.Voter:
						leader = "no (not a voter yet)"
					case m.Role == "server":
						leader = "no"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Role, m.Address, m.State, m.Version, leader)
				}
				if err := w.Flush(); err != nil {
					return err
				}
				if response.Warning != "" {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", response.Warning)
				}
				return nil
			})
		},
	}
	target.add(cmd.Flags())
	return cmd
}
