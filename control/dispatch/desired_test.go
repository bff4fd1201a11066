package dispatch

import (
	"fmt"
	"testing"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm/kv"
)

// A watch shows a pod's end before another of its name. A list, which is what a
// replica looks at after its state was replaced, shows only what is there now:
// the node that had the name before must not go on running it.
func TestListedPodIsOnOneNode(t *testing.T) {
	s, _, _ := storetest.Open(t)
	var told []string
	d := newDesired(s, func(node, key string) { told = append(told, node+" "+key) })
	on := func(node string, revision uint64) store.Page {
		item := &kv.Item{Key: "pods/default/a", Value: []byte("{}"), Revision: revision}
		if node != "" {
			item.Fields = kv.Attrs{{Name: "spec.nodeName", Value: node}}
		}
		return store.Page{Items: []*kv.Item{item}, Revision: revision}
	}
	for i, step := range []struct{ node, want string }{
		{"n1", "[n1 pods/default/a]"},
		{"n2", "[n1 pods/default/a n2 pods/default/a]"},
		{"", "[n2 pods/default/a]"},
	} {
		told = nil
		d.replace(on(step.node, uint64(i+1)))
		if got := fmt.Sprint(told); got != step.want {
			t.Errorf("bound to %q: told %s, want %s", step.node, got, step.want)
		}
		for _, node := range []string{"n1", "n2"} {
			if _, has := d.get(node, "pods/default/a"); has != (node == step.node) {
				t.Errorf("bound to %q: %s has it: %v", step.node, node, has)
			}
		}
	}
}
