package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wired is a lab with its network and no muster in it. It is down when the test
// ends.
func wired(t *testing.T) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l, err := Open(Config{Dir: filepath.Join(t.TempDir(), "lab")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := l.addNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// busybox runs an applet inside a host and returns what it prints.
func busybox(t *testing.T, h *Host, arguments ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := h.Command(ctx, "busybox", arguments...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// program starts a busybox applet as the host's muster.
func program(t *testing.T, h *Host, arguments ...string) {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	if err := h.startProgram(nil, path, arguments...); err != nil {
		t.Fatal(err)
	}
}

func running(t *testing.T, h *Host) []process {
	t.Helper()
	found, err := h.processes()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if check() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

func TestHostsReachEachOtherAndThisMachineReachesThem(t *testing.T) {
	l := wired(t)
	c1, n2 := l.Hosts[0], l.Hosts[4]
	if err := os.MkdirAll(c1.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c1.Dir, "index.html"), []byte("c1 is here"), 0o644); err != nil {
		t.Fatal(err)
	}
	program(t, c1, "httpd", "-f", "-p", "8080", "-h", c1.Dir)
	url := fmt.Sprintf("http://%v:8080/", c1.Address())
	eventually(t, "n2 reaches c1", func() bool {
		out, err := busybox(t, n2, "wget", "-qO-", url)
		return err == nil && out == "c1 is here"
	})
	out, err := exec.Command("busybox", "wget", "-qO-", url).CombinedOutput()
	if err != nil || string(out) != "c1 is here" {
		t.Errorf("this machine gets %q (%v) from c1, want %q", out, err, "c1 is here")
	}
	// Packets that leave the lab are refused at once, each of them: a name server
	// on the outside must not cost a pull of an image its timeouts.
	began := time.Now()
	err = l.inNetns(n2.Name, func() error {
		for range 10 {
			if connection, err := net.Dial("tcp", "203.0.113.1:80"); err == nil {
				connection.Close()
				return errors.New("n2 connects to a machine outside the lab")
			}
			// As a resolver asks.
			connection, err := net.Dial("udp", "203.0.113.53:53")
			if err != nil {
				return err
			}
			if _, err := connection.Write([]byte("?")); err != nil {
				return err
			}
			if err := connection.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
				return err
			}
			_, err = connection.Read(make([]byte, 1))
			connection.Close()
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("a question to the outside ends with %v, want it refused", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("20 times refused after %v, want at once", took)
	}
}

func TestHostsHaveTheirOwnRun(t *testing.T) {
	l := wired(t)
	if out, err := busybox(t, l.Hosts[0], "touch", "/run/mine-alone"); err != nil {
		t.Fatal(err, out)
	}
	if out, err := busybox(t, l.Hosts[0], "ls", "/run/mine-alone"); err != nil {
		t.Errorf("c1 does not see its own file: %v %s", err, out)
	}
	if _, err := busybox(t, l.Hosts[1], "ls", "/run/mine-alone"); err == nil {
		t.Error("c2 sees what c1 has in /run")
	}
	if _, err := os.Stat("/run/mine-alone"); err == nil {
		t.Error("this machine sees what c1 has in /run")
	}
}

// The kill must reach what a host can have: children in sessions of their own,
// and containers whose parents are dead, which are in neither of the host's
// namespaces. And nothing of other hosts.
func TestKillEndsAllOfAHostAndNothingElse(t *testing.T) {
	l := wired(t)
	n1, n2 := l.Hosts[3], l.Hosts[4]
	for _, h := range []*Host{n1, n2} {
		program(t, h, "sh", "-c", "busybox setsid busybox sleep 1000 & exec busybox sleep 1000")
	}
	container(t, n1)
	eventually(t, "n1 runs a session, another and a container", func() bool {
		all := running(t, n1)
		return len(all) >= 3 && slices.ContainsFunc(all, func(p process) bool { return p.container })
	})
	eventually(t, "n2 runs two processes", func() bool { return len(running(t, n2)) == 2 })
	containers, err := n1.Containers()
	if err != nil {
		t.Fatal(err)
	}
	if len(containers) != 1 || containers[0].Pod != "unknown" {
		t.Errorf("containers of n1 are %+v, want one of an unknown pod", containers)
	}

	if err := n1.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := running(t, n1); len(left) != 0 {
		t.Errorf("n1 still runs %+v", left)
	}
	if _, alive := n1.Running(); alive {
		t.Error("n1's muster counts as running")
	}
	if got := len(running(t, n2)); got != 2 {
		t.Errorf("n2 runs %d processes, want its 2", got)
	}
	if _, alive := n2.Running(); !alive {
		t.Error("n2's muster counts as dead")
	}
}

// container runs a process the way runc does: its root is an overlay below the
// host's folder, with namespaces of its own, orphaned by whoever started it.
func container(t *testing.T, h *Host) {
	t.Helper()
	static, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	base := filepath.Join(h.Dir, "container")
	for _, dir := range []string{"lower/bin", "lower/old", "lower/proc", "upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(static)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "lower/bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `cd ` + base + ` &&
mount -t overlay overlay -o lowerdir=` + base + `/lower,upperdir=` + base + `/upper,workdir=` + base + `/work root &&
cd root && busybox pivot_root . old && exec /bin/busybox sh -c "/bin/busybox umount -l /old; exec /bin/busybox sleep 1000"`
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	start := h.Command(ctx, "sh", "-c", "unshare --net --mount --pid --fork sh -c '"+script+"' >"+base+"/log 2>&1 &")
	if err := start.Run(); err != nil {
		t.Fatal(err)
	}
	// Like a container whose shim was killed.
	eventually(t, "the container runs", func() bool {
		for _, p := range running(t, h) {
			if p.container {
				return true
			}
		}
		return false
	})
	for _, p := range running(t, h) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid))
		if strings.TrimSpace(string(name)) == "unshare" {
			if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// traces is what there is of a lab on this machine: everything with its name, its
// folder or its addresses. Other tests run at the same time, so that comparing
// all of the machine before and after would tell of theirs.
func traces(t *testing.T, l *Lab) string {
	t.Helper()
	marks := []string{l.Name, l.Dir, strings.TrimSuffix(l.Subnet.Addr().String(), "0")}
	var b strings.Builder
	for _, command := range []string{
		"ls /run/netns /run", "ip -o link", "ip -o addr", "ip route show table all", "nft list ruleset", "cat /proc/self/mountinfo",
		"find /sys/fs/cgroup -type d", "ls -d /proc/[0-9]*/cwd | xargs -n1 readlink", "ls -d " + l.Dir,
	} {
		out, _ := exec.Command("sh", "-c", command+" 2>/dev/null").Output()
		for line := range strings.Lines(string(out)) {
			if slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(line, mark) }) {
				fmt.Fprintf(&b, "%s: %s", command, line)
			}
		}
	}
	return b.String()
}

func TestDownLeavesNoTrace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l := wired(t)
	n1 := l.Hosts[3]
	program(t, n1, "sleep", "1000")
	container(t, n1)

	// A container that containerd lost, whose cgroup is still there.
	id, cgroup := strings.Repeat("a", 64), "/muster-lab-test-"+l.Name+"/n1/pod1"
	bundle := filepath.Join(n1.bundles(), id)
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	config := `{"linux": {"cgroupsPath": "` + cgroup + "/" + id + `"}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	hierarchy := cgroupRoot + "/pids"
	if _, err := os.Stat(hierarchy); err != nil {
		hierarchy = cgroupRoot
	}
	if err := os.MkdirAll(hierarchy+cgroup+"/"+id, 0o755); err != nil {
		t.Fatal(err)
	}
	// A mount below the folder that was made outside of the host.
	stray := filepath.Join(l.Dir, "stray")
	if err := os.Mkdir(stray, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", stray, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"ls /run/netns", "ip -o link", "ip route", "cat /proc/self/mountinfo", "find /sys/fs/cgroup", "ls -d /proc", "ls -d " + l.Dir} {
		if during := traces(t, l); !strings.Contains(during, command) {
			t.Fatalf("%s shows nothing of the lab; this test looks at the wrong things:\n%s", command, during)
		}
	}

	for range 2 { // the second finds nothing, which is no error
		if err := l.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := traces(t, l); left != "" {
			t.Errorf("left:\n%s", left)
		}
	}
}

func TestPruneLeavesCgroupsInUse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	roots := cgroupRoots()
	if len(roots) == 0 {
		t.Skip("no cgroups here")
	}
	root := roots[0]
	for _, r := range roots { // one that takes processes without further ado
		if filepath.Base(r) == "pids" {
			root = r
		}
	}
	top := fmt.Sprintf("/muster-lab-test-prune-%d", os.Getpid())
	used, leaked := filepath.Join(root, top, "n1/pod1/used"), filepath.Join(root, top, "n1/pod2/leaked")
	for _, dir := range []string{used, leaked} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }
	defer end()
	if err := os.WriteFile(filepath.Join(used, "cgroup.procs"), []byte(strconv.Itoa(sleep.Process.Pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	pruneCgroups(top)
	if _, err := os.Stat(used); err != nil {
		t.Errorf("a cgroup with a process is gone: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(leaked)); err == nil {
		t.Error("a pod's empty cgroup is still there")
	}
	end()
	eventually(t, "an empty tree is removed whole", func() bool {
		pruneCgroups(top)
		_, err := os.Stat(filepath.Join(root, top))
		return err != nil
	})
}

func TestDownRefusesAFolderThatIsNoLab(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "precious")
	if err := os.MkdirAll(filepath.Join(dir, "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Down(t.Context()); err == nil {
		t.Error("took down a folder that is no lab")
	}
	if _, err := os.Stat(filepath.Join(dir, "work")); err != nil {
		t.Error(err)
	}
}

func TestTwoLabsDoNotMeet(t *testing.T) {
	one, two := wired(t), wired(t)
	if one.Subnet == two.Subnet || one.Name == two.Name {
		t.Fatalf("labs are %s on %v and %s on %v, want them apart", one.Name, one.Subnet, two.Name, two.Subnet)
	}
	program(t, two.Hosts[0], "sleep", "1000")
	if err := one.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, alive := two.Hosts[0].Running(); !alive {
		t.Error("taking one lab down killed a host of the other")
	}
	if out, err := busybox(t, two.Hosts[0], "ping", "-c1", "-W2", two.Hosts[4].Address().String()); err != nil {
		t.Errorf("the other lab's network is broken: %v %s", err, out)
	}
}

func TestNetworkIsMadeOnce(t *testing.T) {
	l := wired(t)
	program(t, l.Hosts[0], "sleep", "1000")
	pid, _ := l.Hosts[0].Running()
	// As another `make up` would, knowing only the folder.
	again, err := Open(Config{Dir: l.Dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.addNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again.Subnet != l.Subnet {
		t.Errorf("subnet is %v, want the %v it was made with", again.Subnet, l.Subnet)
	}
	if got, alive := again.Hosts[0].Running(); !alive || got != pid {
		t.Errorf("c1's muster is %d (%v), want the running %d", got, alive, pid)
	}
}

func TestChooseSubnetAvoidsWhatIsUsed(t *testing.T) {
	for _, c := range []struct {
		used []string
		want string
	}{
		{nil, "10.77.0.0/24"},
		{[]string{"192.168.0.0/16", "10.77.0.128/25"}, "10.78.0.0/24"},
		{[]string{"10.77.0.0/24", "10.78.0.0/16"}, "10.79.0.0/24"},
		{[]string{"10.0.0.0/8"}, ""},
	} {
		var used []netip.Prefix
		for _, u := range c.used {
			used = append(used, netip.MustParsePrefix(u))
		}
		got, err := chooseSubnet(used)
		if c.want == "" {
			if err == nil {
				t.Errorf("with %v used: %v, want an error", c.used, got)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("with %v used: %v, %v, want %s", c.used, got, err, c.want)
		}
	}
}

func TestSubnetMustBeFree(t *testing.T) {
	for _, subnet := range []string{"10.42.3.0/24", "10.77.0.0/16", "10.77.0.7/24", "fd00::/24"} {
		l, err := Open(Config{Dir: filepath.Join(t.TempDir(), "lab"), Subnet: netip.MustParsePrefix(subnet)})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.checkSubnet(); err == nil {
			t.Errorf("subnet %s was taken", subnet)
		}
	}
}

func TestLeaderIsReadFromMembers(t *testing.T) {
	table := "NAME   ROLE     ADDRESS           STATE   VERSION   LEADER\n" +
		"c1     server   10.77.0.11:6443   alive   dev       no\n" +
		"c2     server   10.77.0.12:6443   alive   dev       yes\n" +
		"n1     agent    10.77.0.21        alive   dev       \n"
	if got, err := leaderIn(table); got != "c2" || err != nil {
		t.Errorf("leader is %q (%v), want c2", got, err)
	}
	if got, err := leaderIn(strings.Replace(table, "yes", "no", 1)); err == nil {
		t.Errorf("leader is %q, want an error when there is none", got)
	}
}

func TestMountPointsWithSpacesAreRead(t *testing.T) {
	line := `36 35 98:0 /mnt1 /mnt\040two/a\134b rw,noatime master:1 - ext3 /dev/root rw`
	if got, want := mountPoint(line), `/mnt two/a\b`; got != want {
		t.Errorf("mount point is %q, want %q", got, want)
	}
}
