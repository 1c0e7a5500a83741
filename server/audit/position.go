package audit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Position is a place between two records of a folder's logs. The zero value is before the oldest one.
type Position struct {
	Log     string
	Segment int
	Offset  int64  // in the segment, in bytes
	Seq     uint64 // of the last record before it
}

// String returns "<log>/<segment>/<offset>/<seq>", or "" for the zero value.
func (p Position) String() string {
	if p == (Position{}) {
		return ""
	}
	return fmt.Sprintf("%s/%d/%d/%d", p.Log, p.Segment, p.Offset, p.Seq)
}

// ParsePosition is the inverse of String.
func ParsePosition(s string) (Position, error) {
	if s == "" {
		return Position{}, nil
	}
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return Position{}, errPosition
	}
	_, _, ok := cut(parts[0])
	p := Position{Log: parts[0]}
	var errs [3]error
	p.Segment, errs[0] = strconv.Atoi(parts[1])
	p.Offset, errs[1] = strconv.ParseInt(parts[2], 10, 64)
	p.Seq, errs[2] = strconv.ParseUint(parts[3], 10, 64)
	if errors.Join(errs[:]...) != nil || !ok || p.Segment < 0 || p.Offset < 0 {
		return Position{}, errPosition
	}
	return p, nil
}

var errPosition = errors.New("a position in the audit log has the form LOG/SEGMENT/OFFSET/SEQ")

// MarshalText and UnmarshalText are String and ParsePosition.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText parses a position.
func (p *Position) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePosition(string(text))
	return err
}
