package fsm

import "testing"

func TestForksGoTheirOwnWay(t *testing.T) {
	m := New(Config{})
	apply := func(m *Machine, parts ...any) {
		t.Helper()
		if _, err := m.ApplyOne(encode(t, txn(parts...))); err != nil {
			t.Fatal(err)
		}
	}
	apply(m, put("a", "1"), put("b", "1"))
	fork := m.Fork(Config{})
	apply(fork, put("a", "2"), del("b"), put("c", "2"))
	apply(m, put("b", "3"))
	for _, test := range []struct {
		m    *Machine
		want [3]string
	}{{m, [3]string{"1", "3", ""}}, {fork, [3]string{"2", "", "2"}}} {
		var got [3]string
		for i, key := range []string{"a", "b", "c"} {
			if item, _ := test.m.Get(key); item != nil {
				got[i] = string(item.Value)
			}
		}
		if got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	if m.Revision() != 3 || fork.Revision() != 5 {
		t.Errorf("revisions %d and %d, want 3 and 5", m.Revision(), fork.Revision())
	}
	if _, err := fork.Watch("", 1); err == nil {
		t.Error("the fork tells of changes from before it was made")
	}
	if _, err := fork.Watch("", 2); err != nil {
		t.Errorf("what the fork changes can't be watched: %v", err)
	}
}
