package apiserver

import (
	"bufio"
	"compress/gzip"
	"net/http"
	"strconv"
	"sync"
)

// listBody holds an answer back until it is whole or large: a small one gets a
// length, an error that shows early can still be a status, and a large one is
// compressed if the client likes.
type listBody struct {
	w           http.ResponseWriter
	contentType string
	gzip, head  bool

	held       []byte
	begun      bool
	buffer     *bufio.Writer // once begun
	compressor *gzip.Writer
}

// listBuffers gather what is sent at once: HTTP/2 sends what it is given in 4 KiB
// pieces, each by way of two other goroutines.
var listBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, listBuffer) }}

const listBuffer = 64 << 10

func (l *listBody) Write(b []byte) (int, error) {
	if !l.begun {
		l.held = append(l.held, b...)
		if len(l.held) <= gzipMin {
			return len(b), nil
		}
		l.begin()
		l.buffer = listBuffers.Get().(*bufio.Writer)
		l.buffer.Reset(l.w)
		if l.gzip {
			l.w.Header().Set("Content-Encoding", "gzip")
			l.w.Header().Add("Vary", "Accept-Encoding")
			l.compressor = compressors.Get().(*gzip.Writer)
			l.compressor.Reset(l.buffer)
		}
		l.w.WriteHeader(http.StatusOK)
		held := l.held
		l.held = nil
		if err := l.out(held); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	return len(b), l.out(b)
}

func (l *listBody) begin() {
	l.begun = true
	l.w.Header().Set("Content-Type", l.contentType)
}

func (l *listBody) out(b []byte) error {
	if l.head {
		return nil
	}
	var err error
	switch {
	case l.compressor != nil:
		_, err = l.compressor.Write(b)
	case l.buffer != nil:
		_, err = l.buffer.Write(b)
	default:
		_, err = l.w.Write(b)
	}
	return err
}

func (l *listBody) Close() error {
	if !l.begun {
		l.begin()
		l.w.Header().Set("Content-Length", strconv.Itoa(len(l.held)))
		l.w.WriteHeader(http.StatusOK)
		return l.out(l.held)
	}
	var err error
	if l.compressor != nil {
		err = l.compressor.Close()
		compressors.Put(l.compressor)
	}
	if err == nil {
		err = l.buffer.Flush()
	}
	l.buffer.Reset(nil)
	listBuffers.Put(l.buffer)
	return err
}
