package kv

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A map is compared with a plain Go map through thousands of random changes,
// and every view taken on the way must still show its moment at the end: the
// nodes of the tree are shared between them all.
func TestViewsStayWhileTheMapGoesOn(t *testing.T) {
	type moment struct {
		view *View
		want map[string]*Item
	}
	random := rand.New(rand.NewPCG(1, 2))
	m, model := NewMap(), map[string]*Item{}
	var moments []moment
	for revision := uint64(1); revision <= 20_000; revision++ {
		key := fmt.Sprintf("t%d/%03d", random.IntN(3), random.IntN(500))
		if random.IntN(3) == 0 {
			if got := m.Delete(key); got != model[key] {
				t.Fatalf("Delete(%q) returned %v, want %v", key, got, model[key])
			}
			delete(model, key)
		} else {
			item := &Item{Key: key, Revision: revision}
			if got := m.Put(item); got != model[key] {
				t.Fatalf("Put(%q) returned %v, want %v", key, got, model[key])
			}
			model[key] = item
		}
		if got := m.Get(key); got != model[key] {
			t.Fatalf("Get(%q) is %v, want %v", key, got, model[key])
		}
		if revision%500 == 0 {
			moments = append(moments, moment{m.Clone(revision), maps.Clone(model)})
		}
	}
	if m.Len() != len(model) {
		t.Errorf("%d keys, want %d", m.Len(), len(model))
	}
	for i, moment := range moments {
		if got, want := moment.view.Revision(), uint64(i+1)*500; got != want {
			t.Errorf("view %d is of revision %d, want %d", i, got, want)
		}
		if got, want := moment.view.Len(), len(moment.want); got != want {
			t.Errorf("view %d has %d keys, want %d", i, got, want)
		}
		for key, want := range moment.want {
			if got := moment.view.Get(key); got != want {
				t.Errorf("view %d has %v for %q, want %v", i, got, key, want)
			}
		}
		for _, prefix := range []string{"", "t1/", "t1/2", "t1/250", "t2", "u", "t1/25"} {
			for _, start := range []string{"", "t1/1", "t1/3", "t1/250", "t9", "a"} {
				checkRange(t, moment.view, moment.want, prefix, start)
			}
			want := 0
			for key := range moment.want {
				if strings.HasPrefix(key, prefix) {
					want++
				}
			}
			if got := moment.view.Count(prefix); got != want {
				t.Errorf("view %d counts %d keys of %q, want %d", i, got, prefix, want)
			}
		}
	}
}

func checkRange(t *testing.T, view *View, model map[string]*Item, prefix, start string) {
	t.Helper()
	var want []string
	for _, key := range slices.Sorted(maps.Keys(model)) {
		if strings.HasPrefix(key, prefix) && key >= start {
			want = append(want, key)
		}
	}
	var got []string
	for item := range view.Range(prefix, start) {
		got = append(got, item.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("Range(%q, %q) is %v, want %v", prefix, start, got, want)
	}
}

func TestRangeStopsWhenTold(t *testing.T) {
	m := NewMap()
	for i := range 10 {
		m.Put(&Item{Key: fmt.Sprintf("k%d", i)})
	}
	seen := 0
	for range m.Clone(1).Range("", "") {
		if seen++; seen == 3 {
			break
		}
	}
	if seen != 3 {
		t.Errorf("saw %d items, want 3", seen)
	}
}

func TestAttrsAnswerSelectors(t *testing.T) {
	attrs := Attrs{{"app", "web"}, {"empty", ""}, {"tier", "front"}}
	for _, tt := range []struct {
		name, value string
		has         bool
	}{
		{"app", "web", true},
		{"empty", "", true},
		{"tier", "front", true},
		{"a", "", false},
		{"apq", "", false},
		{"zone", "", false},
		{"", "", false},
	} {
		if value, has := attrs.Lookup(tt.name); value != tt.value || has != tt.has {
			t.Errorf("Lookup(%q) is %q, %v, want %q, %v", tt.name, value, has, tt.value, tt.has)
		}
		if got := attrs.Has(tt.name); got != tt.has {
			t.Errorf("Has(%q) is %v, want %v", tt.name, got, tt.has)
		}
		if got := attrs.Get(tt.name); got != tt.value {
			t.Errorf("Get(%q) is %q, want %q", tt.name, got, tt.value)
		}
	}
}

func filled(n int) (*Map, []string) {
	m, keys := NewMap(), make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("pods/namespace-%d/pod-%08d", i%50, i)
		m.Put(&Item{Key: keys[i]})
	}
	return m, keys
}

func BenchmarkGet(b *testing.B) {
	m, keys := filled(100_000)
	view := m.Clone(1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if view.Get(keys[i*7919%len(keys)]) == nil {
			b.Fatal("a key is missing")
		}
	}
}

func BenchmarkRangeOf1000(b *testing.B) {
	m, _ := filled(100_000)
	view := m.Clone(1)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for range view.Range("pods/namespace-7/", "") {
			if n++; n == 1000 {
				break
			}
		}
		if n != 1000 {
			b.Fatalf("%d items, want 1000", n)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	m, keys := filled(100_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Put(&Item{Key: keys[i*7919%len(keys)]})
	}
}

// What a write costs when every revision is looked at.
func BenchmarkPutAfterEachClone(b *testing.B) {
	m, keys := filled(100_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Clone(uint64(i))
		m.Put(&Item{Key: keys[i*7919%len(keys)]})
	}
}
