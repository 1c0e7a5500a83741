package audit

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
)

// A logCheck verifies one log, line by line.
type logCheck struct {
	v       *verifier
	files   logFiles
	report  LogReport
	demands []demand // what is still asked for, the smallest first
	ended   uint64   // a later log says that there is no record behind this one
	named   bool     // a later log says where it ends
	tree    tree
	prev    string // what the next line must say of the last one; "": not known
	segment int    // index of the current one
	limit   uint64
	last    place // of the last record
	since   place // of the first record behind the last root that held
	signed  uint64
	suspect *suspicion
	junk    *Fault        // a line that is no record
	beyond  bool          // a line that a later segment has
	rests   map[int]Fault // what segments end in, until another says that writing to them had failed
	closed  bool
	used    bool
	broken  bool // a fault was found in this segment: nothing more can be said about it
	lost    bool // in some segment
	removed []statement
}

// A place is where a record stands.
type place struct {
	segment int
	line    int
	seq     uint64
}

// A suspicion is that of two records that do not fit together one was changed; the next tells which.
type suspicion struct {
	before, after place
	own           string // what the next record says if the second was not changed
}

// A statement is a record that says what retention removes. It counts when it is signed.
type statement struct {
	seq  uint64
	list []Removed
}

func (v *verifier) verifyLog(files logFiles) error {
	c := &logCheck{v: v, files: files, demands: slices.Clone(v.demands[files.id]), report: LogReport{Log: files.id, Segments: len(files.paths)}}
	c.sortDemands()
	if first := files.numbers[0]; first > 1 {
		c.report.Removed = first - 1
		v.gaps = append(v.gaps, gap{files.id, first - 1, c.at(place{line: 1},
			fmt.Sprintf("segments 1 to %d are missing, and no signed record says that retention removed them", first-1))})
	}
	limits, err := files.limits()
	if err != nil {
		return err
	}
	var end tail
	for i, path := range files.paths {
		c.limit = limits[i]
		if err := c.begin(i); err != nil {
			return err
		}
		if end, err = scanSegment(path, c.line); err != nil {
			return err
		}
		if i < len(files.paths)-1 {
			c.leave(end)
		}
	}
	c.settle("")
	c.end(end)
	v.report.Logs = append(v.report.Logs, c.report)
	return nil
}

func (c *logCheck) sortDemands() {
	slices.SortStableFunc(c.demands, func(a, b demand) int { return cmp.Compare(a.size, b.size) })
	for _, d := range c.demands {
		if d.end {
			c.named, c.ended = true, max(c.ended, d.size)
		}
	}
}

// begin prepares for a segment. Where the one before is missing or broken, the record that names this one says with what
// the tree goes on; that is signed, and verified when the tree gets there.
func (c *logCheck) begin(i int) error {
	c.segment, c.junk, c.beyond = i, nil, false
	number := c.files.numbers[i]
	missing := i > 0 && number != c.files.numbers[i-1]+1
	if missing && !c.broken {
		c.settle("")
		c.fault(place{i, 1, c.tree.size + 1}, fmt.Sprintf("segment %d is missing", number-1))
	}
	if !c.broken && !(i == 0 && number > 1) {
		c.meet()
		return nil
	}
	return c.resume()
}

// resume goes on with the tree that the current segment carries.
func (c *logCheck) resume() error {
	if c.files.numbers[c.segment] == 1 {
		return nil
	}
	head, err := segmentHead(c.files.paths[c.segment], c.files.numbers[c.segment])
	if err != nil {
		return err
	}
	t, err := treeOf(head.Tree)
	if err != nil || t.size < c.tree.size {
		if !c.broken {
			c.fault(place{segment: c.segment, line: 1}, "the segment does not say with what it goes on")
		}
		return nil
	}
	c.tree, c.prev, c.signed, c.broken, c.since = t, "", t.size, false, place{}
	for len(c.demands) > 0 && c.demands[0].size < t.size {
		if d := c.demands[0]; d.outside >= 0 {
			c.v.fault(Fault{Log: c.files.id, What: fmt.Sprintf("%s, of %d records, cannot be checked, for the records up to %d are not there or broken", d.from, d.size, t.size)})
		}
		c.demands = c.demands[1:]
	}
	c.meet()
	return nil
}

// leave looks at how a segment ends behind which there is another. One that was given up may end in anything, and that does
// not count; into any other somebody put it.
func (c *logCheck) leave(t tail) {
	if c.broken || !c.beyond && c.junk == nil && t.cut == 0 {
		return
	}
	here := place{segment: c.segment, line: 1}
	if c.last.segment == c.segment {
		here.line = c.last.line + 1
	}
	if c.closed {
		c.fault(here, "something stands behind the closing record")
		return
	}
	if c.limit == 0 {
		return // the log's process died before it wrote to the next one
	}
	if c.rests == nil {
		c.rests = make(map[int]Fault)
	}
	c.rests[c.files.numbers[c.segment]] = c.at(here, "it was added: no segment behind says that writing to this one had failed")
}

// forgive takes out of account what the segments end in that were given up.
func (c *logCheck) forgive(p *Process) {
	for n := range c.rests {
		if p.GaveUp > 0 && n >= p.GaveUp && n < p.Segment {
			c.v.note("log %s: segment %d ends with something that does not count, for writing to it had failed", c.files.id, n)
			delete(c.rests, n)
		}
	}
}

func (c *logCheck) at(p place, what string) Fault {
	return Fault{Log: c.files.id, File: filepath.Base(c.files.paths[p.segment]), Line: p.line, Seq: p.seq, What: what}
}

func (c *logCheck) fault(p place, what string) {
	c.v.fault(c.at(p, what))
	c.broken, c.lost = true, true
}

// line verifies one line.
func (c *logCheck) line(ln *line) error {
	if c.limit != 0 && ln.seq >= c.limit {
		c.beyond = true
		return errStop
	}
	if err := c.v.step(len(ln.text) + 1); err != nil {
		return err
	}
	if err := c.settle(ln.prev); err != nil {
		return err
	}
	here := place{c.segment, ln.number, ln.seq}
	switch {
	case c.broken:
		c.listen(ln)
	case ln.seq == 0:
		if c.junk == nil {
			f := c.at(place{c.segment, ln.number, c.tree.size + 1}, "the line is not a record")
			c.junk = &f
		}
	case c.junk != nil:
		c.v.fault(*c.junk)
		c.junk, c.broken, c.lost = nil, true, true
	case c.inOrder(here):
		c.record(ln, here)
	}
	return nil
}

// listen hears what a segment says that is broken already, so that one fault does not look like many.
func (c *logCheck) listen(ln *line) {
	if ln.event != EventLogRemoved {
		return
	}
	if r, err := ln.decode(); err == nil {
		c.removed = append(c.removed, statement{0, r.Removed})
	}
}

func (c *logCheck) inOrder(here place) bool {
	want := c.tree.size + 1
	switch {
	case c.closed:
		c.fault(here, "it stands behind the closing record")
	case here.seq > want:
		c.fault(place{here.segment, here.line, want}, fmt.Sprintf("it is missing: record %d stands in its place", here.seq))
	case here.seq < want:
		c.fault(here, fmt.Sprintf("it stands where record %d should", want))
	default:
		return true
	}
	return false
}

func (c *logCheck) record(ln *line, here place) {
	mismatch := c.prev != "" && ln.prev != c.prev && !(c.v.adopted[c.files.id] && ln.prev == "")
	if mismatch {
		c.suspect = &suspicion{before: c.last, after: here}
	}
	c.special(ln, here)
	if c.broken {
		return
	}
	if c.since.seq == 0 {
		c.since = here
	}
	if c.report.First == 0 {
		c.report.First = here.seq
	}
	c.prev = prevOf(c.tree.add(ln.text))
	if mismatch {
		c.suspect.own = c.prev
	}
	c.last, c.used = here, c.used || !ln.beginning()
	c.meet()
}

// settle says which of two records was changed, now that it is known what the next one says.
func (c *logCheck) settle(next string) error {
	s := c.suspect
	if s == nil {
		return nil
	}
	c.suspect = nil
	if next != "" && next != s.own {
		c.fault(s.after, "it was changed: neither its neighbour before nor the one behind fits to it")
	} else {
		c.fault(s.before, "it was changed: the record behind it does not fit to it")
	}
	if s.after.segment == c.segment {
		return nil
	}
	return c.resume() // it was in the segment before
}

// special looks into the log's own records.
func (c *logCheck) special(ln *line, here place) {
	switch ln.event {
	case EventLogOpened, EventLogSegment, EventLogCheckpoint, EventLogClosed, EventLogRemoved, EventLogLinked:
	default:
		if here.seq == 1 {
			c.fault(here, "it does not begin a log")
		}
		return
	}
	r, err := ln.decode()
	if err != nil {
		c.fault(here, "the record cannot be parsed")
		return
	}
	if what := c.identity(&r); what != "" {
		c.fault(here, what)
		return
	}
	if c.signature(&r, here); c.broken {
		return
	}
	if r.Event == EventLogSegment {
		c.forgive(r.Process)
	}
	c.v.takePrevious(c.files.id, here.seq, r.Previous)
	if len(r.Removed) > 0 {
		c.removed = append(c.removed, statement{here.seq, r.Removed})
	}
	c.closed = r.Event == EventLogClosed
}

// identity holds that a segment is what its file is named after.
func (c *logCheck) identity(r *Record) string {
	p := r.Process
	switch {
	case (r.Event == EventLogOpened) != (r.Seq == 1):
		return "it does not begin a log"
	case r.Event == EventLogOpened:
		if p == nil || p.Log != c.files.id {
			return "it begins another log than the file is named after"
		}
		c.report.Started, c.report.Gateway, c.report.Key = r.Time, p.Gateway, p.Key
	case r.Event == EventLogSegment && (p == nil || p.Log != c.files.id || p.Segment > c.files.numbers[c.segment]):
		return "it begins another segment than the file is named after"
	}
	return ""
}

// signature verifies the checkpoint that a record carries: it signs all records before.
func (c *logCheck) signature(r *Record, here place) {
	if r.Checkpoint == "" {
		if c.v.adopted[c.files.id] {
			return
		}
		if r.Event == EventLogCheckpoint || r.Event == EventLogSegment || r.Event == EventLogClosed {
			c.fault(here, "its signature is missing")
		}
		return
	}
	cp, err := ParseCheckpoint(r.Checkpoint, c.v.keys)
	switch {
	case err != nil:
		c.fault(here, "its checkpoint is not signed by a known key")
	case cp.Log != c.files.id || cp.Size != here.seq-1:
		c.fault(here, "its checkpoint is of other records")
	default:
		c.compare(cp.Root.String(), fmt.Sprintf("the checkpoint in record %d", here.seq))
	}
}

// compare compares the root of the records so far.
func (c *logCheck) compare(root, from string) bool {
	if c.tree.root().String() == root {
		c.signed, c.since = c.tree.size, place{}
		return true
	}
	if c.suspect != nil || c.broken { // the record is named
		return false
	}
	what := "it was changed: " + from + " contradicts it"
	if c.since.seq != c.tree.size {
		what = fmt.Sprintf("one of the records %d to %d was changed: %s contradicts them", c.since.seq, c.tree.size, from)
	}
	if c.since.seq == 0 {
		c.since, what = place{c.segment, 1, 0}, from+" contradicts the records before"
	}
	c.fault(c.since, what)
	return false
}

// meet compares the tree with what others say about it at its size.
func (c *logCheck) meet() {
	for len(c.demands) > 0 && c.demands[0].size == c.tree.size && !c.broken {
		d := c.demands[0]
		c.demands = c.demands[1:]
		held := c.compare(d.root, d.from)
		c.outcome(d, map[bool]string{true: CheckpointHolds, false: CheckpointBroken}[held])
	}
}

func (c *logCheck) outcome(d demand, result string) {
	if d.outside >= 0 {
		c.v.report.Checkpoints[d.outside].Result = result
	}
}

// end judges how the log ends.
func (c *logCheck) end(t tail) {
	lastSegment := len(c.files.paths) - 1
	behind := place{lastSegment, c.last.line + 1, 0}
	c.report.Last, c.report.Signed, c.report.State = c.tree.size, c.signed, c.state()
	if !c.broken {
		c.report.Root = c.tree.root().String()
	}
	for _, s := range c.removed {
		if s.seq <= c.signed {
			c.v.takeRemoved(s.list)
		}
	}
	if c.broken {
		return
	}
	if !c.lost {
		for _, f := range c.rests {
			c.v.fault(f)
		}
	}
	for _, d := range c.demands {
		c.outcome(d, CheckpointBroken)
	}
	switch {
	case len(c.demands) > 0:
		d := c.demands[len(c.demands)-1]
		behind.seq = c.tree.size + 1
		c.fault(behind, fmt.Sprintf("it is missing: the end is cut; %s is of %d records, and %d are there", d.from, d.size, c.tree.size))
	case c.named && c.tree.size > c.ended:
		behind.seq = c.ended + 1
		c.fault(behind, "it was added after the log had ended")
	case c.closed && (c.junk != nil || t.cut > 0):
		c.fault(behind, "something stands behind the closing record")
	case c.report.State == StateUnknown:
		behind.seq = c.tree.size + 1
		c.fault(behind, "the log ends without its closing record, and no later log says where it ended")
	case c.v.adopted[c.files.id]:
		c.v.note("log %s is of a version that did not sign; it is proved since the log after it began", c.files.id)
	case (c.used || c.closed) && !c.v.hasBeside(c.files.id):
		c.fault(place{segment: lastSegment}, "the checkpoint beside the log is missing")
	case c.junk != nil || t.cut > 0:
		c.v.note("log %s ends with something that is not a whole record", c.files.id)
	}
}

func (c *logCheck) state() string {
	switch {
	case c.broken:
		return StateUnknown
	case c.closed:
		return StateClosed
	case c.v.lives(c.files.id):
		return StateOpen
	case c.named:
		return StateRecovered
	}
	return StateUnknown
}
