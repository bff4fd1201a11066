package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// result is what is known of an area.
type result struct {
	version     string // of Muster
	run, passed int
	failures    []string // rows of the page's second table
}

// readPage reads the results on a page that write wrote; none if there is no page.
func readPage(file string) (map[string]*result, error) {
	areas := map[string]*result{}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return areas, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if area := areaOf(strings.TrimPrefix(line, "| ")); area != "other" && strings.HasPrefix(line, "| [") {
			if areas[area] == nil {
				return nil, fmt.Errorf("%s: a failure of %s, which is not in its first table", file, area)
			}
			areas[area].failures = append(areas[area].failures, line)
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !strings.HasPrefix(line, "| sig-") || len(cells) != 6 {
			continue
		}
		r := &result{version: cells[5]}
		var bad [2]error
		r.run, bad[0] = strconv.Atoi(cells[1])
		r.passed, bad[1] = strconv.Atoi(cells[2])
		if err := errors.Join(bad[:]...); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", file, line, err)
		}
		areas[cells[0]] = r
	}
	return areas, nil
}

func write(file string, areas map[string]*result) error {
	var out bytes.Buffer
	fmt.Fprint(&out, `# Conformance

What Kubernetes' own end-to-end suite (v1.37.1, the specs that it marks as [Conformance]) says of Muster: the suite is built from
Kubernetes' module and run, unchanged, by `+"`make conformance`"+` against the five hosts of `+"`make up`"+`. No spec is left out or treated
differently to pass. This page is written by that command.

| area | specs run | passed | failed | | Muster |
|---|---|---|---|---|---|
`)
	total := result{}
	row := func(name string, r *result) {
		fmt.Fprintf(&out, "| %s | %d | %d | %d | %.1f %% | %s |\n", name, r.run, r.passed, r.run-r.passed, 100*float64(r.passed)/float64(r.run), r.version)
	}
	names := slices.Sorted(maps.Keys(areas))
	for _, name := range names {
		r := areas[name]
		row(name, r)
		total.run, total.passed = total.run+r.run, total.passed+r.passed
		total.failures = append(total.failures, r.failures...)
	}
	row("all", &total)
	if len(total.failures) > 0 {
		fmt.Fprint(&out, "\n## What fails, and why\n\n| spec | why | what it said |\n|---|---|---|\n")
	}
	for _, failure := range total.failures {
		fmt.Fprintln(&out, failure)
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}
