package transcripts

import (
	"fmt"
	"strings"
)

// script is a transcript: commands, each with what is said before it and what
// it printed.
type script []step

type step struct {
	remarks []string // lines before the command
	command string   // for the shell, perhaps of several lines
	output  string   // as a transcript shows it
}

// parse reads a transcript. Blank lines after an output do not count.
func parse(text string) (script, error) {
	var (
		s       script
		remarks []string
		output  []string
	)
	finish := func() {
		if len(s) > 0 {
			s[len(s)-1].output = strings.TrimRight(strings.Join(output, "\n"), "\n")
		}
		output = nil
	}
	started := false // the last line was a part of a command
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "## "):
			if started = false; len(remarks) == 0 {
				finish()
			}
			remarks = append(remarks, line)
		case strings.HasPrefix(line, "$ "):
			if started = true; len(remarks) == 0 {
				finish()
			}
			s = append(s, step{remarks: remarks, command: line[2:]})
			remarks = nil
		case started && strings.HasPrefix(line, "> "), started && line == ">":
			s[len(s)-1].command += "\n" + strings.TrimPrefix(line[1:], " ")
		case len(remarks) > 0 && line != "" || len(s) == 0 && line != "":
			return nil, fmt.Errorf("line %d: output without a command: %q", i+1, line)
		default:
			started = false
			output = append(output, line)
		}
	}
	if len(remarks) > 0 {
		return nil, fmt.Errorf("the last remark is about no command")
	}
	finish()
	return s, nil
}

func (s script) String() string {
	var b strings.Builder
	for i, step := range s {
		if i > 0 && (len(step.remarks) > 0 || strings.Count(s[i-1].output, "\n") > 0) {
			b.WriteString("\n")
		}
		for _, remark := range step.remarks {
			fmt.Fprintln(&b, remark)
		}
		fmt.Fprintln(&b, "$", strings.ReplaceAll(step.command, "\n", "\n> "))
		if step.output != "" {
			fmt.Fprintln(&b, step.output)
		}
	}
	return b.String()
}

// shown is how a transcript shows what a command did.
func shown(stdout, stderr string, code int) string {
	out := strings.TrimRight(stdout, "\n")
	if stderr = strings.TrimRight(stderr, "\n"); stderr != "" {
		out += "\n! " + strings.ReplaceAll(stderr, "\n", "\n! ")
	}
	if code != 0 {
		out += fmt.Sprintf("\n[exit %d]", code)
	}
	lines := strings.Split(out, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}
