package fence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"time"
)

// kept is what outlives the agent while its machine runs. It is not synced to the
// disk: after a reboot nothing runs that it could be about.
type kept struct {
	Boot  string `json:"boot"`  // which start of the machine Until counts from
	Until int64  `json:"until"` // nanoseconds
	Peers peers  `json:"peers"`
}

func (f *Fence) kept() kept {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := kept{Boot: f.boot, Until: int64(f.until), Peers: f.peers}
	k.Peers.Asked = append([]peer(nil), k.Peers.Asked...)
	return k
}

func load(file string) (kept, error) {
	var k kept
	if file == "" {
		return k, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &k)
		if err != nil {
			return kept{}, nil // cut short by a crash of the machine
		}
	}
	if err != nil {
		return k, fmt.Errorf("read when the control plane was last certain: %w", err)
	}
	return k, nil
}

// keeper writes it down at most every keepEvery.
type keeper struct {
	file string
	last kept
	at   time.Duration
}

func (k *keeper) due(now time.Duration) bool { return k.file != "" && now >= k.at+keepEvery }

func (k *keeper) save(now kept, at time.Duration) error {
	k.at = at
	if reflect.DeepEqual(now, k.last) {
		return nil
	}
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	if err := os.WriteFile(k.file+".new", text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(k.file+".new", k.file); err != nil {
		return err
	}
	k.last = now
	return nil
}

func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
