package identity

import "fmt"

// nameMax is also the most that a Kubernetes label's value may have, and every
// node's name is one (kubernetes.io/hostname).
const nameMax = 63

// CheckName says whether a node may be called this: an RFC 1123 name as
// Kubernetes asks of nodes (lower-case letters, digits, '-' and '.', each part
// beginning and ending with a letter or digit), at most 63 characters.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("the node's name is empty")
	}
	if len(name) > nameMax {
		return fmt.Errorf("node name %.20q… has %d characters; at most %d are allowed", name, len(name), nameMax)
	}
	bad := func() error {
		return fmt.Errorf("node name %q must consist of lower-case letters, digits, '-' and '.', and each part must begin and end with a letter or digit", name)
	}
	alphanumeric := func(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
	for i := 0; i < len(name); i++ {
		c := name[i]
		if alphanumeric(c) {
			continue
		}
		if c != '-' && c != '.' || i == 0 || i == len(name)-1 {
			return bad()
		}
		if c == '.' && !(alphanumeric(name[i-1]) && alphanumeric(name[i+1])) {
			return bad()
		}
	}
	return nil
}
