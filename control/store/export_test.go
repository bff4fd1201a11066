package store

import "github.com/musterhq/muster/fsm/kv"

// OpenNewest lets tests step between the two halves of a read.
func (s *Store) OpenNewest(spec *Spec, get func() *kv.Item) (*kv.Item, error) {
	_, opened, _, err := s.openNewest(spec, func() (*kv.Item, uint64) { return get(), 0 })
	return opened, err
}
