package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options choose what of a log is read.
type Options struct {
	Follow     bool
	Timestamps bool
	Tail       int64     // the last lines; negative: all
	Since      time.Time // zero: from the start
	LimitBytes int64     // negative: no limit
}

const (
	followEvery  = 100 * time.Millisecond
	lineBytesMax = 1 << 20 // runtimes split lines at 16 KiB; longer is damage and cut here
	tailBlock    = 32 << 10
)

// Read copies the log at path to stdout and stderr, of which either may be the
// same or nil. With Follow it goes on, also into the next file when the log is
// rotated, until running says false and all was read, or ctx ends.
func Read(ctx context.Context, path string, opts Options, running func() bool, stdout, stderr io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { file.Close() }()
	if opts.Tail >= 0 {
		at, err := tailOffset(file, opts.Tail)
		if err != nil {
			return fmt.Errorf("find the last %d lines of %s: %w", opts.Tail, path, err)
		}
		if _, err := file.Seek(at, io.SeekStart); err != nil {
			return err
		}
	}
	out := &printer{opts: opts, left: opts.LimitBytes, stdout: stdout, stderr: stderr, begins: [2]bool{true, true}}
	lines := newLineReader(file)
	for {
		if err := out.drain(lines); err != nil {
			if errors.Is(err, errLimit) {
				return nil
			}
			return err
		}
		if !opts.Follow {
			return out.last(lines)
		}
		// Ask before looking once more: what was written before the end is there.
		alive := running()
		next, err := reopen(path, file)
		if err != nil {
			return err
		}
		if next == nil && !alive {
			if err := out.drain(lines); err != nil && !errors.Is(err, errLimit) {
				return err
			}
			return out.last(lines)
		}
		if next != nil {
			err := out.drain(lines)
			file.Close()
			file, lines = next, newLineReader(next)
			if errors.Is(err, errLimit) {
				return nil
			} else if err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followEvery):
		}
	}
}

// reopen answers the file at path if it is another than the open one.
func reopen(path string, open *os.File) (*os.File, error) {
	now, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // between the two steps of a rotation, or removed
	} else if err != nil {
		return nil, err
	}
	was, err := open.Stat()
	if err != nil {
		return nil, err
	}
	if os.SameFile(now, was) {
		return nil, nil
	}
	next, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return next, err
}

// tailOffset says where the last n lines of f begin.
func tailOffset(f io.ReaderAt, n int64) (int64, error) {
	size, err := sizeOf(f)
	if err != nil {
		return 0, err
	}
	if n <= 0 {
		return size, nil
	}
	block := make([]byte, tailBlock)
	newlines := int64(0)
	for end := size; end > 0; {
		start := max(0, end-tailBlock)
		piece := block[:end-start]
		if _, err := f.ReadAt(piece, start); err != nil && err != io.EOF {
			return 0, err
		}
		for i := len(piece) - 1; i >= 0; i-- {
			if piece[i] != '\n' || start+int64(i) == size-1 {
				continue // the newline at the very end closes the last line
			}
			if newlines++; newlines == n {
				return start + int64(i) + 1, nil
			}
		}
		end = start
	}
	return 0, nil
}

func sizeOf(f io.ReaderAt) (int64, error) {
	switch f := f.(type) {
	case *os.File:
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	case *bytes.Reader:
		return f.Size(), nil
	}
	return 0, fmt.Errorf("size of %T is unknown", f)
}

// lineReader gives whole lines of a file that may still grow.
type lineReader struct {
	in   *bufio.Reader
	half []byte // of a line whose end is not written yet
	skip bool   // the rest of this line is too much
}

func newLineReader(in io.Reader) *lineReader {
	return &lineReader{in: bufio.NewReaderSize(in, 64<<10)}
}

// next answers a line with its newline, valid until the next call, or io.EOF
// when there is no whole line yet.
func (r *lineReader) next() ([]byte, error) {
	for {
		piece, err := r.in.ReadSlice('\n')
		if err == nil && len(r.half) == 0 && !r.skip {
			return piece, nil
		}
		if room := lineBytesMax - len(r.half); len(piece) > room {
			piece, r.skip = piece[:room], true
		}
		r.half = append(r.half, piece...)
		switch {
		case err == nil:
			line := r.half
			r.half, r.skip = nil, false
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

var errLimit = errors.New("limit reached")

type printer struct {
	opts           Options
	left           int64
	stdout, stderr io.Writer
	begins         [2]bool // whether the next piece on the stream begins a line
	buf            []byte
}

// drain prints all whole lines there are.
func (p *printer) drain(lines *lineReader) error {
	for {
		raw, err := lines.next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := p.print(raw); err != nil {
			return err
		}
	}
}

// last prints a line that was never ended.
func (p *printer) last(lines *lineReader) error {
	if len(lines.half) == 0 {
		return nil
	}
	if err := p.print(lines.half); err != nil && !errors.Is(err, errLimit) {
		return err
	}
	return nil
}

func (p *printer) print(raw []byte) error {
	line, err := Parse(raw)
	if err != nil {
		return nil // a torn or foreign line says nothing
	}
	if line.Time.Before(p.opts.Since) {
		return nil
	}
	to, stream := p.stdout, 0
	if line.Stderr {
		to, stream = p.stderr, 1
	}
	if to == nil {
		return nil
	}
	p.buf = p.buf[:0]
	if p.opts.Timestamps && p.begins[stream] {
		p.buf = line.Time.AppendFormat(p.buf, time.RFC3339Nano)
		p.buf = append(p.buf, ' ')
	}
	p.begins[stream] = !line.Partial
	p.buf = append(p.buf, line.Text...)
	if p.opts.LimitBytes >= 0 {
		if int64(len(p.buf)) >= p.left {
			p.buf = p.buf[:p.left]
		}
		p.left -= int64(len(p.buf))
	}
	if len(p.buf) > 0 {
		if _, err := to.Write(p.buf); err != nil {
			return err
		}
	}
	if p.opts.LimitBytes >= 0 && p.left <= 0 {
		return errLimit
	}
	return nil
}
