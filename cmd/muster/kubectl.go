package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// newKubectlCommand is the real kubectl. Its flags are its own: everything
// after the word kubectl goes to it untouched.
func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl ...",
		Short:              "The built-in kubectl; a link to muster that is named kubectl does the same",
		DisableFlagParsing: true,
		// kubectl reads no setting of ours.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		Run: func(_ *cobra.Command, args []string) {
			os.Exit(runKubectl(args))
		},
	}
}

// runKubectl answers kubectl's exit code; as kubectl does, it may end the
// process itself with the code that an error calls for.
func runKubectl(args []string) int {
	// kubectl takes its arguments, its plugins' names and its own name from here.
	os.Args = append([]string{"kubectl"}, args...)
	_, _ = logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return 0
}
