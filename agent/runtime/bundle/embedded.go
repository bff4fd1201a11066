//go:build bundle

package bundle

import _ "embed"

// archive is made by `make build` before the binary is linked.
//
//go:embed bundle.tar.zst
var archive []byte
