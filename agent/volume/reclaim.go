package volume

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Reclaim deletes the directory of a volume that no claim has any more, with all
// that is in it. It must be one of ours, no pod may have it, and nothing may be mounted in it:
// what is mounted there is not the volume's. One that is gone is no error.
func (m *Manager) Reclaim(path string) error {
	name, err := m.name(path)
	if err != nil {
		return err
	}
	// Nothing below a Root is reached through links that lead out of it.
	base, err := os.OpenRoot(m.Volumes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer base.Close()
	if pod, err := m.user(path); err != nil {
		return err
	} else if pod != "" {
		return fmt.Errorf("pod %s still has it", pod)
	}
	if at, err := mountedIn(path); err != nil {
		return err
	} else if at != "" {
		return fmt.Errorf("something is mounted at %s", at)
	}
	return base.RemoveAll(name)
}

// user is the uid of a pod that has a volume, "" when none has.
func (m *Manager) user(path string) (string, error) {
	links, err := filepath.Glob(filepath.Join(m.Dir, "*", "*"))
	if err != nil {
		return "", err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == path {
			return filepath.Base(filepath.Dir(link)), nil
		}
	}
	return "", nil
}

// mountedIn is a place at or below path where something is mounted, "" when there is none.
func mountedIn(path string) (string, error) {
	file, err := os.Open("/proc/self/mountinfo") // proc(5): the fifth field is where
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if at := unescape.Replace(fields[4]); at == path || strings.HasPrefix(at, path+"/") {
			return at, nil
		}
	}
	return "", lines.Err()
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
