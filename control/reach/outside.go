package reach

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// outside dials hosts that are not in the cluster. A name is checked where it
// leads to, at the last moment: it may lead elsewhere than when it was looked at.
var outside = net.Dialer{
	Timeout: 10 * time.Second,
	Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !at.Addr().Unmap().IsGlobalUnicast() {
			return fmt.Errorf("%s: %w", at.Addr(), ErrNotAllowed)
		}
		return nil
	},
}
