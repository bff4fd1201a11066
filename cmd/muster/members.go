package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newMembersCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the nodes of the cluster, whether they are alive, and who leads",
		Long: `List the nodes of the cluster, whether they are alive, and who leads.

Any control node answers, also one that has lost the others; it then says so.`,
		Example: `  muster members
  muster members --server 10.0.0.2:6443 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return target.call(cmd.Context(), func(ctx context.Context, c clusterv1.OperatorClient) error {
				response, err := c.Members(ctx, &clusterv1.MembersRequest{})
				if err != nil {
					return err
				}
				if response.Warning != "" {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", response.Warning)
				}
				if form == outputJSON {
					return printJSON(cmd.OutOrStdout(), newMemberList(response), false)
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
				return w.Flush()
			})
		},
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

// memberList is the list as -o json prints it.
type memberList struct {
	ClusterID  string   `json:"clusterID"`
	Leader     string   `json:"leader"` // empty: none is known
	Quorum     bool     `json:"quorum"`
	AnsweredBy string   `json:"answeredBy"`
	Warning    string   `json:"warning,omitempty"`
	Members    []member `json:"members"`
}

type member struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Address string `json:"address"`
	State   string `json:"state"`
	Version string `json:"version"`
	Leader  bool   `json:"leader"`
	Voter   bool   `json:"voter"`
}

func newMemberList(r *clusterv1.MembersResponse) memberList {
	out := memberList{ClusterID: r.ClusterId, Leader: r.Leader, Quorum: r.Quorum, AnsweredBy: r.AnsweredBy, Warning: r.Warning, Members: []member{}}
	for _, m := range r.Members {
		out.Members = append(out.Members, member{
			Name: m.Name, Role: m.Role, Address: m.Address, State: m.State, Version: m.Version, Leader: m.Leader, Voter: m.Voter,
		})
	}
	return out
}
