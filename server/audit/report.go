package audit

import (
	"fmt"
	"strings"
	"time"
)

// A Report is what [Verify] found.
type Report struct {
	Whole  bool    `json:"whole"`
	Faults []Fault `json:"faults,omitempty"` // in the order of logs and records; of each segment the first

	Keys        string             `json:"keys"` // where the public keys came from
	Logs        []LogReport        `json:"logs"`
	Checkpoints []CheckpointReport `json:"checkpoints,omitempty"` // those from outside
	Records     uint64             `json:"records"`               // that were verified
	Unsigned    uint64             `json:"unsigned"`              // of them, those behind the last signature of their log
	Removed     uint64             `json:"removed"`               // that retention took away, of logs of which something is left
	Notes       []string           `json:"notes,omitempty"`
}

// A Fault is a place where the log is not what was written.
type Fault struct {
	Log  string `json:"log,omitempty"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Seq  uint64 `json:"seq,omitempty"` // of the first bad record
	What string `json:"what"`
}

// String returns "file:line: record 7: what".
func (f Fault) String() string {
	var b strings.Builder
	switch {
	case f.File != "" && f.Line != 0:
		fmt.Fprintf(&b, "%s:%d: ", f.File, f.Line)
	case f.File != "":
		fmt.Fprintf(&b, "%s: ", f.File)
	case f.Log != "":
		fmt.Fprintf(&b, "%s: ", f.Log)
	}
	if f.Seq != 0 {
		fmt.Fprintf(&b, "record %d: ", f.Seq)
	}
	return b.String() + f.What
}

// States of a log.
const (
	StateClosed    = "closed"    // it ends with its closing record
	StateRecovered = "recovered" // its process died, and a later log says where it ends
	StateOpen      = "open"      // its process runs, or died and was not followed by another
	StateUnknown   = "unknown"   // its end cannot be accounted for
)

// A LogReport is what was found of one log.
type LogReport struct {
	Log      string    `json:"log"`
	State    string    `json:"state"`
	Segments int       `json:"segments"`
	First    uint64    `json:"first"` // number of the first record that is there
	Last     uint64    `json:"last"`
	Signed   uint64    `json:"signed"`         // the last record that a signature covers
	Root     string    `json:"root,omitempty"` // of all records up to Last
	Removed  int       `json:"removed,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Gateway  string    `json:"gateway,omitempty"`
	Key      string    `json:"key,omitempty"`
}

// A CheckpointReport says what became of a checkpoint from outside.
type CheckpointReport struct {
	Log    string `json:"log"`
	Size   uint64 `json:"size"`
	Result string `json:"result"`
}

// Results of a checkpoint.
const (
	CheckpointHolds     = "holds"
	CheckpointBroken    = "broken"
	CheckpointUnchecked = "cannot be checked"
)
