package policy

import (
	"fmt"

	"github.com/culvert-vpn/culvert/internal/strictconf"
)

const tagPrefix = "tag:"

func errorAt(file string, pos Pos, format string, args ...any) *strictconf.Error {
	return &strictconf.Error{File: file, Line: pos.Line, Column: pos.Column, Msg: fmt.Sprintf(format, args...)}
}

// Parse reads a policy file strictly. name stands in messages. All faults found are reported
// together, by place: errors.Join of *strictconf.Error.
func Parse(name string, data []byte) (*Document, error) {
	return nil, errUnparsed
}
