package apiserver

import (
	"bufio"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// eventStream writes events to a client, many at once if many are there.
type eventStream struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	buffer   *bufio.Writer
	patience *patience
	encoder  *eventEncoder
	counted  interface{ Inc() }
	sized    interface{ Observe(float64) }
}

func newEventStream(w http.ResponseWriter, encoder *eventEncoder, counted interface{ Inc() }, sized interface{ Observe(float64) }, patience time.Duration) *eventStream {
	e := &eventStream{w: w, control: http.NewResponseController(w), encoder: encoder, counted: counted, sized: sized}
	e.patience = newPatience(e.control, patience)
	e.buffer = bufio.NewWriterSize(e.patience.writer(w), watchBuffer)
	return e
}

func (e *eventStream) begin() {
	e.w.Header().Set("Content-Type", e.encoder.contentType())
	e.w.WriteHeader(http.StatusOK)
}

func (e *eventStream) flush() error {
	if err := e.buffer.Flush(); err != nil {
		return err
	}
	e.patience.begin()
	defer e.patience.done()
	return e.control.Flush()
}

// end is called before the handler returns.
func (e *eventStream) end() { e.patience.end() }

func (e *eventStream) event(event store.Event) error {
	if e.encoder.splices() {
		return e.spliced(event)
	}
	b, err := e.encoder.event(event)
	if err != nil {
		return err
	}
	return e.send(b)
}

// spliced puts an event into the buffer straight from the bytes that are stored.
func (e *eventStream) spliced(event store.Event) error {
	if size := e.encoder.splicedSize(event); size > e.buffer.Available() {
		if err := e.buffer.Flush(); err != nil {
			return err
		}
	}
	return e.send(e.encoder.appendSpliced(e.buffer.AvailableBuffer(), event))
}

func (e *eventStream) send(b []byte) error {
	e.counted.Inc()
	e.sized.Observe(float64(len(b)))
	_, err := e.buffer.Write(b)
	return err
}

func (e *eventStream) bookmark(revision uint64, endOfInitial bool) error {
	b, err := e.encoder.bookmark(revision, endOfInitial)
	if err != nil {
		return err
	}
	_, err = e.buffer.Write(b)
	return err
}

// failed ends the stream with an error.
func (e *eventStream) failed(status *metav1.Status) error {
	b, err := e.encoder.failed(status)
	if err != nil {
		return err
	}
	if _, err := e.buffer.Write(b); err != nil {
		return err
	}
	return e.flush()
}

// patience bounds how long each write to a client may take. A deadline of the
// connection would do that too, but HTTP/2 ends a stream whose deadline has
// passed even if nothing was being written, and takes two switches to its
// connection's goroutine to set one.
type patience struct {
	control *http.ResponseController
	most    time.Duration
	timer   *time.Timer

	mu    sync.Mutex
	began time.Time // of the write that is under way; zero: none is
	ended bool
}

func newPatience(control *http.ResponseController, most time.Duration) *patience {
	p := &patience{control: control, most: most}
	p.timer = time.AfterFunc(most, p.lost)
	p.timer.Stop()
	return p
}

func (p *patience) begin() {
	p.mu.Lock()
	p.began = time.Now()
	p.mu.Unlock()
	p.timer.Reset(p.most)
}

func (p *patience) done() {
	p.timer.Stop()
	p.mu.Lock()
	p.began = time.Time{}
	p.mu.Unlock()
}

// end: the response must not be touched afterwards.
func (p *patience) end() {
	p.timer.Stop()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
}

// lost makes the write fail that is under way, unless the timer is an earlier one's.
func (p *patience) lost() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.began.IsZero() || time.Since(p.began) < p.most {
		return
	}
	// A writer without deadlines, as in tests, goes on.
	_ = p.control.SetWriteDeadline(p.began)
}

// writer gives each write to w its time.
func (p *patience) writer(w http.ResponseWriter) *patientWriter { return &patientWriter{w, p} }

type patientWriter struct {
	w http.ResponseWriter
	p *patience
}

func (w *patientWriter) Write(b []byte) (int, error) {
	w.p.begin()
	defer w.p.done()
	return w.w.Write(b)
}
