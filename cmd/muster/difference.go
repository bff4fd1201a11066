package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fieldChange is a field of an object that would be another.
type fieldChange struct {
	Path string `json:"path"`
	// Before and After are absent where there is no such field.
	Before any `json:"before,omitempty"`
	After  any `json:"after,omitempty"`
}

// String is the change as a line: ~ path: before → after, or with + or - what
// comes or goes.
func (c fieldChange) String() string {
	switch {
	case c.Before == nil:
		return fmt.Sprintf("+ %s: %s", c.Path, short(c.After))
	case c.After == nil:
		return fmt.Sprintf("- %s: %s", c.Path, short(c.Before))
	}
	return fmt.Sprintf("~ %s: %s → %s", c.Path, short(c.Before), short(c.After))
}

// shortMost bounds what a line says of a value.
const shortMost = 120

func short(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if text := string(raw); len(text) > shortMost {
		return strings.ToValidUTF8(text[:shortMost], "") + "…"
	}
	return string(raw)
}

// difference lists the fields that differ, in order of their paths. Items of lists
// that have names, as containers do, are compared by name, others by place.
func difference(path string, before, after any) (changes []fieldChange) {
	b, bothMaps := before.(map[string]any)
	if a, ok := after.(map[string]any); ok && bothMaps {
		keys := maps.Clone(b)
		maps.Copy(keys, a)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			changes = append(changes, difference(join(path, key), b[key], a[key])...)
		}
		return changes
	}
	bl, bothLists := before.([]any)
	if al, ok := after.([]any); ok && bothLists {
		return differentItems(path, bl, al)
	}
	if asJSON(before) == asJSON(after) {
		return nil
	}
	return []fieldChange{{path, before, after}}
}

func differentItems(path string, before, after []any) (changes []fieldChange) {
	b, named := byName(before)
	a, alsoNamed := byName(after)
	if named && alsoNamed {
		keys := maps.Clone(b)
		maps.Copy(keys, a)
		for _, name := range slices.Sorted(maps.Keys(keys)) {
			changes = append(changes, difference(fmt.Sprintf("%s[%s]", path, name), b[name], a[name])...)
		}
		return changes
	}
	for i := range max(len(before), len(after)) {
		var x, y any
		if i < len(before) {
			x = before[i]
		}
		if i < len(after) {
			y = after[i]
		}
		changes = append(changes, difference(fmt.Sprintf("%s[%d]", path, i), x, y)...)
	}
	return changes
}

func byName(list []any) (map[string]any, bool) {
	items := make(map[string]any, len(list))
	for _, it := range list {
		m, _ := it.(map[string]any)
		name, ok := m["name"].(string)
		if _, twice := items[name]; !ok || twice {
			return nil, false
		}
		items[name] = it
	}
	return items, true
}

func asJSON(v any) string {
	raw, _ := json.Marshal(v) // of JSON: fails for no value
	return string(raw)
}

func join(path, key string) string {
	if strings.ContainsAny(key, "./") {
		key = "[" + key + "]"
		return path + key
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
