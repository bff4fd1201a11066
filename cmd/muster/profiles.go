package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func newProfilesCommand() *cobra.Command {
	var (
		target operatorFlags
		form   output
	)
	cmd := group(&cobra.Command{
		Use:   "profiles",
		Short: "Show and set how pods of each spec.schedulerName are placed",
		Long: `Show the profiles of the scheduler: which there are, what they do otherwise than
the standard one, and how many pods wait for a node by each.

A pod is placed by the profile that its spec.schedulerName names. default-scheduler
is always there. Pods that name none of them are left to another scheduler; they are
listed too, as a name may be mistyped.`,
		Example: `  muster operator scheduler profiles
  muster operator scheduler profiles set -f profiles.yaml`,
		Args: cobra.NoArgs,
	}, newSetProfilesCommand(), newShowProfilesCommand(), newResetProfilesCommand())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var r *clusterv1.ListSchedulerProfilesResponse
		err := target.leader(cmd.Context(), func(conn *grpc.ClientConn) (err error) {
			ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
			defer cancel()
			r, err = clusterv1.NewSchedulerClient(conn).ListProfiles(ctx, &clusterv1.ListSchedulerProfilesRequest{})
			return err
		})
		if err != nil {
			return err
		}
		profiles := newSchedulerProfiles(r.Profiles)
		if form == outputJSON {
			return printJSON(cmd.OutOrStdout(), profiles, false)
		}
		return printProfiles(cmd.OutOrStdout(), profiles)
	}
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd
}

// schedulerProfile is what -o json prints.
type schedulerProfile struct {
	Name        string   `json:"name"`
	Missing     bool     `json:"missing,omitempty"`
	Differences []string `json:"differences"`
	Waiting     uint64   `json:"waiting"`
	Change      string   `json:"change,omitempty"`
}

func newSchedulerProfiles(from []*clusterv1.SchedulerProfile) []schedulerProfile {
	profiles := make([]schedulerProfile, len(from))
	for i, p := range from {
		profiles[i] = schedulerProfile{Name: p.Name, Missing: p.Missing, Differences: append([]string{}, p.Differences...), Waiting: p.Waiting, Change: p.Change}
	}
	return profiles
}

func printProfiles(out io.Writer, profiles []schedulerProfile) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "PROFILE\tWAITING\tDIFFERS")
	for _, p := range profiles {
		differs := cmp.Or(strings.Join(p.Differences, "; "), "-")
		if p.Missing {
			differs = "there is no such profile: these pods are left to another scheduler"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", p.Name, p.Waiting, differs)
	}
	return w.Flush()
}

func newSetProfilesCommand() *cobra.Command {
	var (
		file   string
		dryRun bool
	)
	cmd, run := profilesVerb(&cobra.Command{
		Use:   "set -f FILE",
		Short: "Have the profiles of a file hold, instead of those that do",
		Long: `Have the profiles of a file hold, instead of those that do.

The file is a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1), as for
kube-scheduler: profiles with schedulerName, plugins, pluginConfig and
percentageOfNodesToScore. What can't be done as written is refused, by the name of the
field: unknown plugins, extenders, settings of kube-scheduler's own process.

It holds from the next decision on, in the whole cluster, and moves no pod that has a
node. Pods that wait are looked at anew by a profile that is new or has changed; those
of one that is gone are left alone. Without a profile of that name in the file,
default-scheduler is the standard one.`,
		Example: `  muster operator scheduler profiles set -f profiles.yaml --dry-run
  muster operator scheduler profiles set -f profiles.yaml`,
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return errors.New("-f: name a file, or - for standard input")
		}
		raw, err := readFileOrInput(cmd.InOrStdin(), file)
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			return fmt.Errorf("%s is empty; muster operator scheduler profiles reset goes back to the standard one", file)
		}
		return run(cmd, &clusterv1.SetSchedulerProfilesRequest{File: raw, DryRun: dryRun})
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "file of profiles, - for standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check the file and say what would change, only")
	return cmd
}

func newResetProfilesCommand() *cobra.Command {
	cmd, run := profilesVerb(&cobra.Command{
		Use:     "reset",
		Short:   "Go back to the standard profile alone",
		Long:    `Go back to the standard profile alone. Pods that wait by others are left alone.`,
		Example: `  muster operator scheduler profiles reset`,
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return run(cmd, &clusterv1.SetSchedulerProfilesRequest{})
	}
	return cmd
}

// profilesVerb is what changes profiles, and prints what changes.
func profilesVerb(cmd *cobra.Command) (*cobra.Command, func(*cobra.Command, *clusterv1.SetSchedulerProfilesRequest) error) {
	var (
		target operatorFlags
		form   output
	)
	cmd.Args = cobra.NoArgs
	form.add(cmd.Flags())
	target.add(cmd.Flags())
	return cmd, func(cmd *cobra.Command, request *clusterv1.SetSchedulerProfilesRequest) error {
		var r *clusterv1.SetSchedulerProfilesResponse
		err := target.each(func(conn *grpc.ClientConn) (err error) {
			ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
			defer cancel()
			r, err = clusterv1.NewSchedulerClient(conn).SetProfiles(ctx, request)
			return err
		})
		if err != nil {
			return err
		}
		profiles := newSchedulerProfiles(r.Profiles)
		if form == outputJSON {
			return printJSON(cmd.OutOrStdout(), profiles, false)
		}
		return printProfileChanges(cmd.OutOrStdout(), profiles)
	}
}

func printProfileChanges(out io.Writer, profiles []schedulerProfile) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, p := range profiles {
		differs := cmp.Or(strings.Join(p.Differences, "; "), "as the standard one")
		if p.Missing {
			differs = "pods that name it are left alone"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Change, differs)
	}
	return w.Flush()
}

func newShowProfilesCommand() *cobra.Command {
	var target operatorFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Print the file of profiles as it was set",
		Long:    `Print the file of profiles as it was set. Without one it prints nothing and says so.`,
		Example: `  muster operator scheduler profiles show > profiles.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r *clusterv1.GetSchedulerProfilesResponse
			err := target.each(func(conn *grpc.ClientConn) (err error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
				defer cancel()
				r, err = clusterv1.NewSchedulerClient(conn).GetProfiles(ctx, &clusterv1.GetSchedulerProfilesRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if len(r.File) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no profiles are set: there is default-scheduler, as it is without")
				return nil
			}
			_, err = cmd.OutOrStdout().Write(r.File)
			return err
		},
	}
	target.add(cmd.Flags())
	return cmd
}

func readFileOrInput(in io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(file)
}
