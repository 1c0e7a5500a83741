package login

import (
	"errors"
	"os"
	"strings"
)

// addressInUse tells a taken port from a machine without IPv6. The system's error number differs between
// systems; the name of the system call and the text do not help on all, so both spellings are looked for.
func addressInUse(err error) bool {
	var call *os.SyscallError
	if !errors.As(err, &call) {
		return false
	}
	text := call.Err.Error()
	return strings.Contains(text, "in use") || strings.Contains(text, "Only one usage of each socket address")
}
