package process

import (
	"net"
	"strconv"
)

// FreePorts asks the kernel for addresses on loopback that nobody uses. They
// are free when this returns; nothing keeps them so.
func FreePorts(count int) ([]string, error) {
	var addresses []string
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that no port comes twice
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// FreePort is the port alone of one such address.
func FreePort() (int, error) {
	addresses, err := FreePorts(1)
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(addresses[0])
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}
