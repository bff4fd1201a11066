// Package logs reads and rotates the files container runtimes write, in the
// format CRI sets: one line "time stream tags text" for each line, or piece of
// a line, that a container wrote. Where the files are is the pod's business.
package logs

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// Line is one line of a log file.
type Line struct {
	Time   time.Time
	Stderr bool
	// Partial is a piece of a line the container wrote that does not end it.
	Partial bool
	// Text ends with a newline unless Partial. It shares the parsed bytes.
	Text []byte
}

var errFormat = errors.New("not a CRI log line")

// Parse reads one line of a log file, with or without its newline.
func Parse(raw []byte) (Line, error) {
	stamp, rest, ok := bytes.Cut(raw, []byte{' '})
	if !ok {
		return Line{}, fmt.Errorf("%w: no stream", errFormat)
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Line{}, fmt.Errorf("%w: %w", errFormat, err)
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return Line{}, fmt.Errorf("%w: no tags", errFormat)
	}
	line := Line{Time: at}
	switch string(stream) {
	case "stdout":
	case "stderr":
		line.Stderr = true
	default:
		return Line{}, fmt.Errorf("%w: stream %q", errFormat, stream)
	}
	// A line without text may come without the space after its tags.
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		tags = bytes.TrimSuffix(tags, []byte{'\n'})
	}
	// More tags than this one may follow after colons; none is defined so far.
	first, _, _ := bytes.Cut(tags, []byte{':'})
	switch string(first) {
	case "P":
		line.Partial = true
		text = bytes.TrimSuffix(text, []byte{'\n'})
	case "F":
		if !bytes.HasSuffix(text, []byte{'\n'}) {
			text = append(text[:len(text):len(text)], '\n')
		}
	default:
		return Line{}, fmt.Errorf("%w: tags %q", errFormat, tags)
	}
	line.Text = text
	return line, nil
}

// Format appends l to dst as it stands in a log file.
func (l Line) Format(dst []byte) []byte {
	dst = l.Time.AppendFormat(dst, "2006-01-02T15:04:05.000000000Z07:00")
	if l.Stderr {
		dst = append(dst, " stderr "...)
	} else {
		dst = append(dst, " stdout "...)
	}
	if l.Partial {
		dst = append(dst, "P "...)
		dst = append(dst, l.Text...)
		return append(dst, '\n')
	}
	dst = append(dst, "F "...)
	dst = append(dst, l.Text...)
	if !bytes.HasSuffix(l.Text, []byte{'\n'}) {
		dst = append(dst, '\n')
	}
	return dst
}
