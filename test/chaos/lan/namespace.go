// Package lan is a local network that misbehaves on request: hosts in network
// namespaces of their own, each with a TUN device, and a switch in this process
// that forwards, holds up, repeats or loses the IP packets between them. The
// kernel's own means for that (netem) is missing on many machines.
//
// Nothing is left behind, however this process ends: a namespace has no name
// and goes away with its last process and descriptor.
package lan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mtu is Ethernet's, so that what is lost in one packet is what a real network
// loses in one.
const mtu = 1500

// Host is a network namespace with one address.
type Host struct {
	Name string
	Addr netip.Addr

	tun  *os.File
	work chan func()
}

// newHost makes the namespace and its device. One thread lives in it until
// close: processes that Do starts are told when that thread ends (PDEATHSIG).
func newHost(name string, addr netip.Addr, bits int) (*Host, error) {
	h := &Host{Name: name, Addr: addr, work: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		ready <- h.enter(bits)
		for f := range h.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		h.close()
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

func (h *Host) enter(bits int) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare network: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq("lan0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("make a TUN device: %w", err)
	}
	h.tun = os.NewFile(uintptr(fd), "lan0") // after TUNSETIFF: a device without it cannot be polled
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return err
	}
	device, err := netlink.LinkByName("lan0")
	if err != nil {
		return err
	}
	ip := &net.IPNet{IP: h.Addr.AsSlice(), Mask: net.CIDRMask(bits, 32)}
	return errors.Join(
		netlink.LinkSetMTU(device, mtu),
		netlink.AddrAdd(device, &netlink.Addr{IPNet: ip}),
		netlink.LinkSetUp(device),
	)
}

// Do calls f on the host's thread: sockets that it opens and processes that it
// starts belong to the host. Calls do not overlap; f must not block for long.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	h.work <- func() { done <- f() }
	return <-done
}

// close ends the host's thread, and with it processes that wanted to be told.
func (h *Host) close() {
	close(h.work)
	if h.tun != nil {
		_ = h.tun.Close()
	}
}
