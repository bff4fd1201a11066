package apiserver

import (
	"net/http"
	"sync"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Bounds of what is told in Warning headers, which proxies limit: upstream's.
const (
	warningMax  = 256
	warningsMax = 4 << 10
)

// warnings turns what the life of a write has to remark into Warning headers,
// which kubectl prints. It is upstream's warning.Recorder.
type warnings struct {
	mu     sync.Mutex
	header http.Header
	said   map[string]bool
	size   int
}

func (w *warnings) AddWarning(agent, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text == "" || w.said[text] {
		return
	}
	if agent == "" {
		agent = "-"
	}
	if runes := []rune(text); w.size+len(text) > warningsMax && len(runes) > warningMax {
		text = string(runes[:warningMax])
	}
	if w.size+len(text) > warningsMax {
		return
	}
	line, err := utilnet.NewWarningHeader(299, agent, text)
	if err != nil {
		return
	}
	if w.said == nil {
		w.said = map[string]bool{}
	}
	w.said[text] = true
	w.size += len(text)
	w.header.Add("Warning", line)
}
