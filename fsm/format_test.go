package fsm

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// A command of a later format stops a build that does not know it, with what helps.
func TestCommandOfALaterFormatStopsTheNode(t *testing.T) {
	later := protowire.AppendBytes(protowire.AppendTag(nil, 999, protowire.BytesType), []byte("x"))
	_, err := New(Config{}).ApplyOne(later)
	if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "newer muster") {
		t.Errorf("got %v, want %v", err, ErrUnknown)
	}
}
