package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

const (
	environmentPrefix = "MUSTER_"
	configFlag        = "config"
)

// applySettings gives every flag that was not typed the value that the
// environment or the config file has for it, so that commands look at flags
// and nowhere else.
func applySettings(cmd *cobra.Command, environment []string) error {
	fromEnvironment, err := readEnvironment(cmd.Root(), environment)
	if err != nil {
		return err
	}
	set := func(flag *pflag.Flag, values []string, source string) error {
		for i, value := range values {
			// The first value replaces the default of a list, others add to it.
			if slice, ok := flag.Value.(pflag.SliceValue); ok && i == 0 {
				if err := slice.Replace(nil); err != nil {
					return err
				}
			}
			if err := cmd.Flags().Set(flag.Name, value); err != nil {
				return fmt.Errorf("%s: %w", source, err)
			}
		}
		return nil
	}
	var errs []error
	typed := map[string]bool{}
	cmd.Flags().Visit(func(f *pflag.Flag) { typed[f.Name] = true })
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if value, ok := fromEnvironment[f.Name]; ok && !typed[f.Name] {
			errs = append(errs, set(f, []string{value}, environmentName(f.Name)))
			typed[f.Name] = true
		}
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	config := cmd.Flags().Lookup(configFlag)
	if config == nil || config.Value.String() == "" {
		return nil
	}
	fromFile, err := readConfigFile(cmd, config.Value.String())
	if err != nil {
		return err
	}
	for name, values := range fromFile {
		if !typed[name] {
			if err := set(cmd.Flags().Lookup(name), values, config.Value.String()+": "+name); err != nil {
				return err
			}
		}
	}
	return nil
}

func environmentName(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readEnvironment finds the MUSTER_ variables, by flag name. A variable may
// belong to another command than the one that runs, but to one it must.
func readEnvironment(root *cobra.Command, environment []string) (map[string]string, error) {
	known := map[string]string{}
	var learn func(*cobra.Command)
	learn = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[environmentName(f.Name)] = f.Name })
		for _, child := range c.Commands() {
			learn(child)
		}
	}
	learn(root)
	values := map[string]string{}
	for _, entry := range environment {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, environmentPrefix) {
			continue
		}
		flag, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("environment variable %s names no setting; unset it or correct its name (muster COMMAND --help lists the settings)", name)
		}
		values[flag] = value
	}
	return values, nil
}

// readConfigFile reads a flat YAML mapping from flag names to values or lists.
func readConfigFile(cmd *cobra.Command, path string) (map[string][]string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the config file: %w", err)
	}
	var file map[string]any
	if err := yaml.UnmarshalStrict(raw, &file); err != nil {
		return nil, fmt.Errorf("config file %s: %w", path, err)
	}
	settings := map[string][]string{}
	var unknown []string
	for name, value := range file {
		if f := cmd.Flags().Lookup(name); f == nil || name == configFlag || name == "help" {
			unknown = append(unknown, name)
			continue
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, v := range list {
			switch v.(type) {
			case string, bool, float64, int64:
				settings[name] = append(settings[name], fmt.Sprint(v))
			default:
				return nil, fmt.Errorf("config file %s: %s: want a value or a list of values, not %T", path, name, v)
			}
		}
	}
	if len(unknown) > 0 {
		sort.Strings(unknown)
		return nil, fmt.Errorf("config file %s: muster %s has no setting %q; muster %[2]s --help lists them", path, cmd.Name(), unknown)
	}
	return settings, nil
}

// logFlags are the settings of a command that keeps running.
type logFlags struct {
	level, format string
}

func (l *logFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&l.level, "log-level", "info", "least severe log lines to write: debug, info, warn or error")
	flags.StringVar(&l.format, "log-format", "text", "form of log lines on standard error: text or json")
	flags.String(configFlag, "", "YAML file with settings of this command: flag names and their values")
}

func (l *logFlags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", l.level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", l.format)
}
