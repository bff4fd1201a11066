package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// run parses a command line of a command like muster's own and says what the
// command saw, or the error.
func run(t *testing.T, environment []string, file string, args ...string) (map[string]string, error) {
	t.Helper()
	seen := map[string]string{}
	var logs logFlags
	var list []string
	child := &cobra.Command{Use: "server", SilenceUsage: true, SilenceErrors: true, RunE: func(cmd *cobra.Command, _ []string) error {
		seen["name"] = cmd.Flag("name").Value.String()
		seen["log-level"] = logs.level
		seen["join"] = strings.Join(list, " ")
		seen["init"] = cmd.Flag("init").Value.String()
		return nil
	}}
	child.Flags().String("name", "default", "")
	child.Flags().Bool("init", false, "")
	child.Flags().StringSliceVar(&list, "join", nil, "")
	logs.add(child.Flags())
	other := &cobra.Command{Use: "agent", RunE: child.RunE}
	other.Flags().String("node-ip", "", "")
	root := &cobra.Command{Use: "muster", SilenceUsage: true, SilenceErrors: true}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return applySettings(cmd, environment) }
	root.AddCommand(child, other)
	if file != "" {
		path := filepath.Join(t.TempDir(), "muster.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	root.SetArgs(append([]string{"server"}, args...))
	return seen, root.Execute()
}

func TestFlagWinsOverEnvironmentOverFile(t *testing.T) {
	file := "name: from-file\nlog-level: warn\njoin: [a:1, b:2]\ninit: true\n"
	for _, test := range []struct {
		name        string
		environment []string
		args        []string
		want        map[string]string
	}{
		{"file", nil, nil, map[string]string{"name": "from-file", "log-level": "warn", "join": "a:1 b:2", "init": "true"}},
		{"environment", []string{"MUSTER_NAME=from-env", "MUSTER_LOG_LEVEL=error", "MUSTER_JOIN=c:3,d:4"}, nil,
			map[string]string{"name": "from-env", "log-level": "error", "join": "c:3 d:4"}},
		{"flag", []string{"MUSTER_NAME=from-env"}, []string{"--name", "from-flag", "--join", "e:5", "--init=false"},
			map[string]string{"name": "from-flag", "log-level": "warn", "join": "e:5", "init": "false"}},
		{"another command's setting", []string{"MUSTER_NODE_IP=10.0.0.1"}, nil, map[string]string{"name": "from-file"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := run(t, test.environment, file, test.args...)
			if err != nil {
				t.Fatal(err)
			}
			for setting, want := range test.want {
				if got[setting] != want {
					t.Errorf("%s is %q, want %q", setting, got[setting], want)
				}
			}
		})
	}
}

// A setting that nothing reads is a setting that somebody believes in.
func TestUnknownSettingsAreErrorsThatNameThem(t *testing.T) {
	for _, test := range []struct {
		name, file  string
		environment []string
		args        []string
		want        string
	}{
		{"in the file", "nmae: x\n", nil, nil, `"nmae"`},
		{"in the environment", "", []string{"MUSTER_NMAE=x"}, nil, "MUSTER_NMAE"},
		{"as a flag", "", nil, []string{"--nmae", "x"}, "--nmae"},
		{"wrong type in the file", "init: perhaps\n", nil, nil, "init"},
		{"nested in the file", "name: {a: b}\n", nil, nil, "name"},
		{"twice in the file", "name: a\nname: b\n", nil, nil, "name"},
		{"file in the file", "config: other.yaml\n", nil, nil, `"config"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := run(t, test.environment, test.file, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that names %s", err, test.want)
			}
		})
	}
}

// Verbs of verbs have settings, too.
func TestEverySettingCanComeFromTheEnvironment(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if _, err := readEnvironment(newCommand(), []string{environmentName(f.Name) + "=x"}); err != nil {
				t.Errorf("%s --%s: %v", cmd.CommandPath(), f.Name, err)
			}
		})
		for _, child := range cmd.Commands() {
			check(child)
		}
	}
	check(newCommand())
}

// Every setting of every command is explained.
func TestHelpExplainsEverySetting(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		for _, line := range strings.Split(cmd.LocalFlags().FlagUsages(), "\n") {
			if fields := strings.Fields(line); len(fields) > 0 && len(fields) < 3 && !strings.Contains(line, "--help") {
				t.Errorf("%s: %q has no explanation", cmd.CommandPath(), line)
			}
		}
		if cmd.Short == "" {
			t.Errorf("%s says nothing about itself", cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			if child.Name() != "kubectl" {
				check(child)
			}
		}
	}
	check(newCommand())
}
