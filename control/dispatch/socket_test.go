package dispatch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// polled says whether an epoll of this process has the socket.
func polled(t *testing.T, socket int) bool {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(socket, &stat); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		info, _ := os.ReadFile(file) // some are closed meanwhile
		if strings.Contains(string(info), fmt.Sprintf(" ino:%x ", stat.Ino)) {
			return true
		}
	}
	return false
}

func TestUnpolledSocketWakesNobody(t *testing.T) {
	conn := listenUDP(t)
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	before := false
	if err := raw.Control(func(fd uintptr) { before = polled(t, int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if !before {
		t.Fatal("the poller does not show the socket that it has")
	}
	u, err := unpoll(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if polled(t, int(u.fd)) {
		t.Error("the poller still has the socket")
	}
}
