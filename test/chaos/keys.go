package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
)

const (
	// prefix is where all keys of the test are.
	prefix = "chaos/"
	// keysLive are used at a time. After opsPerKey operations a key is used no
	// more, so that the search for an order, whose cost grows steeply with what
	// is undecided, has short histories to search.
	keysLive  = 4
	opsPerKey = 200

	bankAccounts = 4
	bankEach     = 100
	opsPerBank   = 200
)

// keys hands out the keys that are in use.
type keys struct {
	mu   sync.Mutex
	next int
	live [keysLive]struct{ number, ops int }
}

func newKeys() *keys {
	k := &keys{next: keysLive}
	for i := range k.live {
		k.live[i].number = i
	}
	return k
}

func (k *keys) key(rng *rand.Rand) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	slot := &k.live[rng.IntN(keysLive)]
	if slot.ops++; slot.ops > opsPerKey {
		slot.number, slot.ops = k.next, 1
		k.next++
	}
	return fmt.Sprintf("%sk%d/%d", prefix, slot.number/10, slot.number%10)
}

// banks hands out the prefix of the accounts that are in use.
type banks struct {
	mu          sync.Mutex
	number, ops int
}

func (b *banks) bank() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ops++; b.ops > opsPerBank {
		b.number, b.ops = b.number+1, 1
	}
	return fmt.Sprintf("%sb%d/", prefix, b.number)
}

// group says which keys transactions touch together: the accounts of one bank.
// Other keys are each for themselves, and "" says of a prefix that it is no group.
func (*run) group(key string) string {
	if strings.HasPrefix(key, prefix+"b") {
		return key[:strings.LastIndexByte(key, '/')+1]
	}
	if strings.HasSuffix(key, "/") {
		return ""
	}
	return key
}
