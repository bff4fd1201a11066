package network

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

const inNamespace = "MUSTER_TEST_IN_NETNS"

// As root the tests run in a network namespace of their own.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inNamespace) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		goruntime.LockOSThread()
		if err := cmd.Run(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func newNetwork(t *testing.T, dir string) *Network {
	t.Helper()
	n, err := New(Config{Dir: dir, CNIConf: filepath.Join(dir, "net.d"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func route(node, address, cidr string) Route {
	return Route{Node: node, Address: netip.MustParseAddr(address), PodCIDR: netip.MustParsePrefix(cidr)}
}

func TestRulesetSparesAllPods(t *testing.T) {
	got := ruleset(desired{PodCIDR: netip.MustParsePrefix("10.1.0.0/24"), Routes: []Route{route("n2", "192.0.2.2", "10.1.64.0/24")}})
	for _, want := range []string{"elements = { 10.1.0.0/24, 10.1.64.0/24 }", "ip saddr 10.1.0.0/24 ip daddr != @pods"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

func TestRangesThatCannotBe(t *testing.T) {
	n := newNetwork(t, t.TempDir())
	for _, cidr := range []string{"", "10.1.0.0", "fd00::/64", "300.1.0.0/24"} {
		if err := n.SetPodCIDR(cidr); err == nil {
			t.Errorf("%q was taken for a pod range", cidr)
		}
	}
}

// The machine is made as told, changes follow, what is stale goes, what is not
// ours stays, and a restart without a control node has it all again.
func TestMachineIsMadeAsTold(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("changing routes needs root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("peer0")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{netlink.AddrAdd(link, address), netlink.LinkSetUp(link), netlink.LinkSetUp(peer)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	foreign := route("", "192.0.2.9", "10.9.0.0/24")
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(foreign.PodCIDR), Gw: foreign.Address.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	start := func() (*Network, func()) {
		n := newNetwork(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		return n, func() {
			cancel()
			if err := <-done; err != context.Canceled {
				t.Errorf("Run ended with %v", err)
			}
		}
	}
	await := func(want ...string) {
		t.Helper()
		want = append(want, "10.9.0.0/24 via 192.0.2.9")
		slices.Sort(want)
		var got []string
		for range 200 {
			list, err := netlink.RouteList(nil, netlink.FAMILY_V4)
			if err != nil {
				t.Fatal(err)
			}
			got = nil
			for _, r := range list {
				if r.Gw != nil {
					got = append(got, r.Dst.String()+" via "+r.Gw.String())
				}
			}
			slices.Sort(got)
			if slices.Equal(got, want) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("routes are %q, want %q", got, want)
	}
	rules := func() string {
		out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}

	n, stop := start()
	if err := n.SetPodCIDR("10.1.0.0/24"); err != nil {
		t.Fatal(err)
	}
	n.SetRoutes([]Route{route("n2", "192.0.2.2", "10.1.64.0/24"), route("n3", "192.0.2.3", "10.1.2.0/24"), route("self", "192.0.2.1", "10.1.3.0/24")})
	await("10.1.64.0/24 via 192.0.2.2", "10.1.2.0/24 via 192.0.2.3")
	if got, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(got) != "1\n" {
		t.Errorf("ip_forward is %q, want it on", got)
	}
	if got := rules(); strings.Count(got, "masquerade") != 1 || !strings.Contains(got, "10.1.64.0/24") {
		t.Errorf("rules are\n%s", got)
	}
	var conf struct {
		Plugins []struct {
			Type string
			IPAM struct{ Ranges [][]struct{ Subnet string } }
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "net.d", "10-muster.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &conf); err != nil || len(conf.Plugins) != 2 || conf.Plugins[0].IPAM.Ranges[0][0].Subnet != "10.1.0.0/24" || conf.Plugins[1].Type != "portmap" {
		t.Errorf("CNI is told %s (%v)", text, err)
	}

	n.SetRoutes([]Route{route("n3", "192.0.2.33", "10.1.2.0/24")}) // moved; n2 left
	await("10.1.2.0/24 via 192.0.2.33")
	if got := rules(); strings.Count(got, "masquerade") != 1 || strings.Contains(got, "10.1.64.0/24") {
		t.Errorf("rules are\n%s", got)
	}
	stop()

	if err := netlink.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.1.2.0/24"))}); err != nil {
		t.Fatal(err)
	}
	_, stop = start() // as after a reboot
	await("10.1.2.0/24 via 192.0.2.33")
	stop()
}
