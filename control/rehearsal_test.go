package control

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// A copy lives in the leader's memory, so it takes no more than so much.
func TestARehearsalStoresNoMoreThanItsBound(t *testing.T) {
	machine := fsm.New(fsm.Config{})
	log := &forkLog{machine: machine, left: 250}
	put := func(key string) error {
		cmd, err := proto.Marshal(&storagev1.Command{Txn: &storagev1.Txn{Ops: []*storagev1.Op{{Op: &storagev1.Op_Put{Put: &storagev1.Put{Key: []byte(key), Value: make([]byte, 80)}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = log.Propose(t.Context(), cmd)
		return err
	}
	stored := 0
	for i := range 4 {
		switch err := put(fmt.Sprint("k", i)); {
		case err == nil:
			stored++
		case !errors.Is(err, errForkFull):
			t.Fatal(err)
		}
	}
	if stored != 2 || machine.Revision() != 2 {
		t.Errorf("%d writes of 100 bytes in 250, at revision %d; want 2", stored, machine.Revision())
	}
}
