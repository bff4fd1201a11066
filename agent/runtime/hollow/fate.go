package hollow

import (
	"path"
	"strconv"
	"strings"
	"time"
)

// fate is how a container's run will go.
type fate struct {
	ends     bool
	after    time.Duration
	code     int32
	stubborn bool // does not heed SIGTERM
}

// fateOf reads a command as the package comment says. A script that begins
// with "trap ” TERM;" makes a container that must be killed.
func fateOf(command []string) fate {
	if len(command) == 0 {
		return fate{}
	}
	if name := path.Base(command[0]); (name == "sh" || name == "bash") && len(command) == 3 && command[1] == "-c" {
		return fateOfScript(command[2])
	}
	return fateOfStep(command)
}

func fateOfScript(script string) fate {
	var f fate
	for step := range strings.SplitSeq(script, ";") {
		step := strings.TrimSpace(step)
		if strings.HasPrefix(step, "trap ''") {
			f.stubborn = true
			continue
		}
		next := fateOfStep(strings.Fields(step))
		f.ends, f.code = next.ends, next.code
		f.after += next.after
		if !f.ends || strings.HasPrefix(step, "exit") {
			return f
		}
	}
	return f
}

func fateOfStep(command []string) fate {
	if len(command) == 0 {
		return fate{ends: true}
	}
	number := func() (float64, bool) {
		if len(command) < 2 {
			return 0, len(command) == 1 && command[0] == "exit"
		}
		n, err := strconv.ParseFloat(strings.TrimSuffix(command[1], "s"), 64)
		return n, err == nil && n >= 0 && n < 1e9
	}
	switch path.Base(command[0]) {
	case "true", "echo":
		return fate{ends: true}
	case "false":
		return fate{ends: true, code: 1}
	case "sleep":
		if seconds, ok := number(); ok {
			return fate{ends: true, after: time.Duration(seconds * float64(time.Second))}
		}
	case "exit":
		if code, ok := number(); ok {
			return fate{ends: true, code: int32(code) & 0xff}
		}
	}
	return fate{}
}
