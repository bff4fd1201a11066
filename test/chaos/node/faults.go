package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"time"
)

// faults are what is wrong with this node's machine at the moment.
type faults struct {
	disk *disk
}

// listen takes commands over a Unix socket, one a line, each answered by "ok"
// and the wall clock in Unix seconds, or by what is wrong with it:
//
//	clock 3h      the wall clock is that much ahead (or behind: -3h)
//	disk hung     a sync hangs until the disk is told otherwise
//	disk full     ENOSPC
//	disk failing  a sync fails with EIO
//	disk 200ms    a sync takes that much longer
//	disk ok
func (f *faults) listen(socket string) (net.Listener, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.serve(conn)
		}
	}()
	return listener, nil
}

func (f *faults) serve(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		answer := ""
		if err := f.do(strings.Fields(lines.Text())); err != nil {
			answer = err.Error()
		} else {
			answer = fmt.Sprintf("ok %d", time.Now().Unix())
		}
		fmt.Fprintln(conn, answer)
	}
}

func (f *faults) do(words []string) error {
	if len(words) != 2 {
		return fmt.Errorf("%q: want a fault and its value", words)
	}
	switch words[0] {
	case "clock":
		offset, err := time.ParseDuration(words[1])
		if err != nil {
			return err
		}
		return setClock(offset)
	case "disk":
		return f.disk.set(words[1])
	default:
		return fmt.Errorf("%q: no such fault", words[0])
	}
}
