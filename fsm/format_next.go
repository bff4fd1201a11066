//go:build nextformat

package fsm

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// This build stands for the next version in tests of upgrades: it reads format
// 2, which has one command more. Earlier builds meet it as a field of Command
// that they do not know.
const thisFormat uint32 = 2

// stampField of Command holds a Put that is carried out without guards.
const stampField protowire.Number = 15

// Stamp is the command of format 2.
func Stamp(put *storagev1.Put) ([]byte, error) {
	payload, err := proto.Marshal(put)
	return protowire.AppendBytes(protowire.AppendTag(nil, stampField, protowire.BytesType), payload), err
}

func formatOf(cmd []byte) uint32 {
	if field, _, n := protowire.ConsumeTag(cmd); n > 0 && field == stampField {
		return 2
	}
	return 1
}

// readNewer says a stamp in the words of format 1.
func readNewer(cmd []byte) ([]byte, error) {
	if formatOf(cmd) < 2 {
		return cmd, nil
	}
	_, _, tag := protowire.ConsumeTag(cmd)
	payload, n := protowire.ConsumeBytes(cmd[tag:])
	put := &storagev1.Put{}
	if n < 0 || tag+n != len(cmd) || proto.Unmarshal(payload, put) != nil {
		return nil, ErrUnreadable
	}
	return proto.Marshal(&storagev1.Command{Txn: &storagev1.Txn{Ops: []*storagev1.Op{{Op: &storagev1.Op_Put{Put: put}}}}})
}
