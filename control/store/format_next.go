//go:build nextformat

package store

import (
	"context"

	"github.com/musterhq/muster/fsm"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// Stamp sets a name by the command that format 2 has and format 1 has not.
func (y System) Stamp(ctx context.Context, name string, value []byte) error {
	cmd, err := fsm.Stamp(&storagev1.Put{Key: []byte(systemPrefix + name), Value: value})
	if err == nil {
		_, err = y.store.send(ctx, cmd)
	}
	return y.wrap("stamp", name, err)
}
