package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// servers is the list of control nodes: those learned last, then those given.
// It is kept in a file, for a start when the given ones are gone.
type servers struct {
	file  string
	given []string

	mu      sync.Mutex
	learned []string
	queue   []string // in the order they are tried
}

var errNoServers = errors.New("no control node is known: give at least one address")

func loadServers(file string, given []string) (*servers, error) {
	s := &servers{file: file, given: given}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		// A damaged list is learned again from one of those given.
		_ = json.Unmarshal(text, &s.learned)
	}
	s.queue = s.all()
	if len(s.queue) == 0 {
		return nil, errNoServers
	}
	rand.Shuffle(len(s.queue), func(i, j int) { s.queue[i], s.queue[j] = s.queue[j], s.queue[i] })
	return s, nil
}

func (s *servers) all() []string {
	var all []string
	for _, address := range slices.Concat(s.learned, s.given) {
		if address != "" && !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	return all
}

func (s *servers) next() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue[0]
}

// failed puts address last.
func (s *servers) failed(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.queue, address); i >= 0 {
		s.queue = append(slices.Delete(s.queue, i, i+1), address)
	}
}

// succeeded puts address first.
func (s *servers) succeeded(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.queue, address); i > 0 {
		s.queue = slices.Insert(slices.Delete(s.queue, i, i+1), 0, address)
	}
}

func (s *servers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// learn takes over the list a control node gave.
func (s *servers) learn(list []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	list = slices.Sorted(slices.Values(list))
	if len(list) == 0 || slices.Equal(list, s.learned) {
		return nil
	}
	s.learned = list
	all := s.all()
	s.queue = slices.DeleteFunc(s.queue, func(a string) bool { return !slices.Contains(all, a) })
	for _, address := range all {
		if !slices.Contains(s.queue, address) {
			at := rand.IntN(len(s.queue) + 1)
			s.queue = slices.Insert(s.queue, at, address)
		}
	}
	if s.file == "" {
		return nil
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	temporary := s.file + ".new"
	if err := os.MkdirAll(filepath.Dir(s.file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return fmt.Errorf("keep the list of control nodes: %w", err)
	}
	return os.Rename(temporary, s.file)
}
