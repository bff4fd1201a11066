package pod

import (
	"strings"
	"testing"
)

// The cases are those of Kubernetes' own expansion.
func TestExpand(t *testing.T) {
	values := map[string]string{"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for _, c := range [][2]string{
		{"", ""},
		{"no dollar", "no dollar"},
		{"$(VAR_A)", "A"},
		{"___$(VAR_B)___", "___B___"},
		{"$(VAR_A)$(VAR_B)-$(VAR_C)", "AB-C"},
		{"$(VAR_REF)", "$(VAR_A)"},
		{"$(VAR_EMPTY)!", "!"},
		{"$$(VAR_A)", "$(VAR_A)"},
		{"$$$(VAR_A)", "$A"},
		{"$$$$$$(VAR_A)", "$$$(VAR_A)"},
		{"\\$(VAR_A)", "\\A"},
		{"$(UNKNOWN)", "$(UNKNOWN)"},
		{"$()", "$()"},
		{"$$", "$"},
		{"$", "$"},
		{"a$", "a$"},
		{"$VAR_A", "$VAR_A"},
		{"$(VAR_A", "$(VAR_A"},
		{"$(VAR_A$(VAR_B)", "$(VAR_A$(VAR_B)"},
		{"$$(VAR_A", "$(VAR_A"},
		{"$(VAR_A))", "A)"},
		{"--config=$(A)--b=$(VAR_B)", "--config=$(A)--b=B"},
	} {
		if got := expand(c[0], lookup); got != c[1] {
			t.Errorf("%q: got %q, want %q", c[0], got, c[1])
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$(B)$", "v")
	f.Add("$((A))", "$(A)")
	f.Fuzz(func(t *testing.T, text, value string) {
		// Without references nothing but $$ changes.
		none := func(string) (string, bool) { return "", false }
		if got := expand(strings.ReplaceAll(text, "$", "$$"), none); got != text {
			t.Fatalf("%q: escaped and expanded it is %q", text, got)
		}
		// Values are not expanded again, and no reference is looked up that is not there.
		got := expand(text, func(name string) (string, bool) {
			if !strings.Contains(text, "$("+name+")") {
				t.Fatalf("%q: looks up %q", text, name)
			}
			return value, true
		})
		if !strings.Contains(text, "$") && got != text {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
