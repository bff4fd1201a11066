package dispatch

import "testing"

// With thousands of pretended nodes, each that joins would have all of them told
// of all others.
func TestPretendedNodesAreNotToldOfRoutes(t *testing.T) {
	for name, bare := range map[string]bool{"real": false, "pretended": true} {
		s := &session{bare: bare, toSend: make(chan struct{}, 1)}
		s.markNetwork()
		if s.network == bare || len(s.toSend) == 1 == bare {
			t.Errorf("%s node: to be told of routes is %v, want %v", name, s.network, !bare)
		}
	}
}
