package fsm

// Fork returns a machine that begins as this one is, and goes its own way: what
// would be can be tried there. It shares what neither has changed since, so it costs
// what is changed. Its history begins now.
func (m *Machine) Fork(cfg Config) *Machine {
	fork := New(cfg)
	m.mu.Lock()
	defer m.mu.Unlock()
	fork.items, fork.bytes = m.items.Clone(m.revision).Map(), m.bytes
	fork.revision, fork.compacted = m.revision, m.compacted
	fork.history.Reset(m.revision)
	return fork
}
