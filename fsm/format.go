package fsm

// The format of commands counts what a build can read: it goes up by one with
// every command, operation or field that earlier builds do not know, and never
// for anything else. What a cluster writes is the lowest Format of its control
// nodes, raised when the last of them has been replaced; a build reads all
// formats up to its own for good, as old entries stay in logs and backups.
//
// A new format is made in this file: Format, and FormatOf for what is new.
// format_next.go is one that only tests build.

// Format is the newest format of commands that this build reads.
const Format = thisFormat

// FormatOf is the lowest format in which an encoded command can be read. Who
// proposes must not send one above the cluster's.
func FormatOf(cmd []byte) uint32 { return formatOf(cmd) }
