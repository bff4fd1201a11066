package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Unplug pulls the host's cable: nothing reaches it or comes from it any more, and
// nobody is told. What runs on it goes on.
func (h *Host) Unplug() error { return h.setPort(false) }

// Plug puts it back.
func (h *Host) Plug() error { return h.setPort(true) }

// setPort switches the host's port of the switch on or off.
func (h *Host) setPort(up bool) error {
	space, at, err := h.lab.handle(switchName)
	if err != nil {
		return err
	}
	defer space.Close()
	defer at.Close()
	port, err := at.LinkByName(h.Name)
	if err != nil {
		return fmt.Errorf("port of %s: %w", h.Name, err)
	}
	set := (*netlink.Handle).LinkSetDown
	if up {
		set = (*netlink.Handle).LinkSetUp
	}
	if err := set(at, port); err != nil {
		return fmt.Errorf("port of %s: %w", h.Name, err)
	}
	return nil
}
