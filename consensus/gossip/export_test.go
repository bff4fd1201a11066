package gossip

// Kill ends a node's sockets without a word, as the death of its process does.
// Run must be ended afterwards.
func Kill(g *Gossip) {
	g.transport.Shutdown()
}
