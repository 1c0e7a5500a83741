package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// VerifyOptions say against what a folder is verified.
type VerifyOptions struct {
	// Keys verify checkpoints. Nil: those in the folder, which is what somebody who writes there can replace too.
	Keys note.Verifiers
	// Checkpoints were kept outside of the folder; their signatures are verified here. Without one, nobody can tell
	// an old copy of the folder, or a cut end, from one that is whole.
	Checkpoints []Checkpoint
	// Latest are the newest checkpoint of each log, as a database keeps them by itself. They are as good as Checkpoints,
	// but those of logs that retention removed are passed over.
	Latest []Checkpoint
	// Progress is told how many bytes of how many were read, now and then. Optional.
	Progress func(done, total int64)
}

// Verify proves that the logs in dir are as they were written: no record removed, changed or reordered, no segment and
// no log missing but those that retention removed. It may run while a log is being written, and changes nothing. An
// error means that it could not be done; what it found wrong is in the report.
func Verify(ctx context.Context, dir string, opts VerifyOptions) (Report, error) {
	for attempt := 1; ; attempt++ {
		v := newVerifier(ctx, dir, opts)
		if err := v.run(); err != nil {
			return Report{}, fmt.Errorf("verify audit log: %w", err)
		}
		if !v.overtaken || attempt == verifyAttempts {
			return v.report, nil
		}
	}
}

// verifyAttempts bounds how often a folder is verified whose retention was faster: it removed a log while that was read,
// and then the segment with the record of that removal, too. What is wrong is wrong the next time as well.
const verifyAttempts = 5

// A demand is a root that the tree of a log must have at a size, and who says so.
type demand struct {
	size uint64
	root string
	from string
	end  bool // the log has no further record
	// outside is the index of a checkpoint from outside, or -1.
	outside int
}

// A gap is what is not there and must have been removed by retention.
type gap struct {
	log     string
	segment int // up to which; 0: all of it
	what    Fault
}

// A verifier goes through the logs from the newest to the oldest: what a log says of earlier ones is known when those
// are read.
type verifier struct {
	ctx     context.Context
	dir     string
	opts    VerifyOptions
	keys    note.Verifiers
	report  Report
	logs    []logFiles
	demands map[string][]demand
	removed map[string]Removed
	beside  map[string]bool // logs with a checkpoint beside them
	running map[string]bool // logs whose process has not ended, or died and was not followed
	adopted map[string]bool // logs of a version that did not sign; a later log proves them
	gaps    []gap
	late    bool // something was removed meanwhile
	// overtaken: something was removed meanwhile, and so may be the record of it.
	overtaken bool
	done      int64
	total     int64
	told      int64
}

func newVerifier(ctx context.Context, dir string, opts VerifyOptions) *verifier {
	return &verifier{
		ctx: ctx, dir: dir, opts: opts, demands: make(map[string][]demand), removed: make(map[string]Removed),
		beside: make(map[string]bool), running: make(map[string]bool), adopted: make(map[string]bool),
	}
}

func (v *verifier) run() error {
	if err := v.loadKeys(); err != nil {
		return err
	}
	logs, err := listSegments(v.dir)
	if err != nil {
		return err
	}
	v.logs, v.total = logs, totalSize(logs)
	if len(logs) == 0 {
		v.report.Notes = append(v.report.Notes, "there is no log in "+v.dir)
	}
	v.takeOutside()
	v.takeLatest()
	orphans, err := v.takeBeside()
	if err != nil {
		return err
	}
	for i := len(logs) - 1; i >= 0; i-- {
		if err := v.verifyThere(logs[i]); err != nil {
			return err
		}
	}
	if err := v.hearLate(); err != nil {
		return err
	}
	v.missingLogs(orphans)
	v.judgeGaps()
	v.finish()
	return nil
}

// verifyThere verifies a log, and begins again with what is left when retention removes a segment meanwhile.
func (v *verifier) verifyThere(files logFiles) error {
	faults, gaps := len(v.report.Faults), len(v.gaps)
	for {
		err := v.verifyLog(files)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		v.late, v.report.Faults, v.gaps = true, v.report.Faults[:faults], v.gaps[:gaps]
		left, err := listSegments(v.dir)
		if err != nil {
			return err
		}
		next, there := findLog(left, files.id)
		if !there {
			v.gaps = append(v.gaps, gap{log: files.id, what: Fault{Log: files.id, What: "the log vanished while it was verified"}})
			return nil
		}
		if next.numbers[0] <= files.numbers[0] {
			return fmt.Errorf("read log %s: segments vanish from its middle", files.id)
		}
		files = next
	}
}

// hearLate looks in the logs that are written for what retention said since they were read.
func (v *verifier) hearLate() error {
	if !v.late {
		return nil
	}
	logs, err := listSegments(v.dir)
	if err != nil {
		return err
	}
	for _, l := range logs {
		if !v.running[l.id] {
			continue
		}
		again := newVerifier(v.ctx, v.dir, VerifyOptions{})
		again.keys, again.running = v.keys, v.running
		if err := again.verifyThere(l); err != nil {
			return err
		}
		for _, r := range again.removed {
			v.takeRemoved([]Removed{r})
		}
	}
	return nil
}

func (v *verifier) loadKeys() (err error) {
	v.keys, v.report.Keys = v.opts.Keys, "given"
	if v.keys == nil {
		v.report.Keys = "the folder itself (" + PublicFile + ")"
		v.keys, err = ReadKeys(filepath.Join(v.dir, PublicFile))
	}
	return err
}

// takeOutside notes the checkpoints from outside as demands.
func (v *verifier) takeOutside() {
	for i, c := range v.opts.Checkpoints {
		v.report.Checkpoints = append(v.report.Checkpoints, CheckpointReport{Log: c.Log, Size: c.Size, Result: CheckpointUnchecked})
		signed, err := ParseCheckpoint(c.Note, v.keys)
		if err != nil || signed.Log != c.Log || signed.Size != c.Size || signed.Root != c.Root {
			v.report.Checkpoints[i].Result = CheckpointBroken
			v.fault(Fault{Log: c.Log, What: "the checkpoint from outside is not signed by a known key"})
			continue
		}
		v.demands[c.Log] = append(v.demands[c.Log], demand{size: c.Size, root: c.Root.String(), from: "the checkpoint from outside", outside: i})
	}
}

// takeLatest notes those that a database keeps.
func (v *verifier) takeLatest() {
	for _, c := range v.opts.Latest {
		signed, err := ParseCheckpoint(c.Note, v.keys)
		if err != nil || signed.Log != c.Log || signed.Size != c.Size {
			v.fault(Fault{Log: c.Log, What: "the checkpoint in the database is not signed by a known key"})
			continue
		}
		v.demands[c.Log] = append(v.demands[c.Log], demand{size: signed.Size, root: signed.Root.String(), from: "the checkpoint in the database", outside: -1})
	}
}

// takeBeside notes the checkpoints beside the logs, before any line is read, so that a log that grows has what they
// speak of. It returns those without a log.
func (v *verifier) takeBeside() (orphans []string, err error) {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), lockSuffix); ok {
			v.running[id] = true
		}
		id, ok := strings.CutSuffix(e.Name(), checkpointSuffix)
		if _, _, is := cut(id); !ok || !is {
			continue
		}
		if _, there := findLog(v.logs, id); !there {
			if now, err := listSegments(v.dir); err != nil {
				return nil, err
			} else if _, there := findLog(now, id); !there { // else it began just now
				orphans = append(orphans, id)
			}
			continue
		}
		c, err := loadCheckpoint(v.dir, id, v.keys)
		if errors.Is(err, fs.ErrNotExist) { // retention removes the log just now
			continue
		}
		v.beside[id] = true
		if err != nil {
			v.fault(Fault{Log: id, File: e.Name(), What: err.Error()})
			continue
		}
		v.demands[id] = append(v.demands[id], demand{size: c.Size, root: c.Root.String(), from: e.Name(), outside: -1})
	}
	return orphans, nil
}

func (v *verifier) fault(f Fault) {
	if f.File != "" {
		f.File = filepath.Base(f.File)
	}
	v.report.Faults = append(v.report.Faults, f)
}

// missingLogs notes logs of which somebody speaks and nothing is there.
func (v *verifier) missingLogs(orphans []string) {
	for _, id := range orphans {
		v.gaps = append(v.gaps, gap{log: id, what: Fault{Log: id, File: id + checkpointSuffix, What: "the log of this checkpoint is missing"}})
	}
	for id, list := range v.demands {
		if _, there := findLog(v.logs, id); there {
			continue
		}
		what := Fault{Log: id, What: "the log is missing; " + list[0].from + " names it"}
		v.gaps = append(v.gaps, gap{log: id, what: what})
		for _, d := range list {
			if d.outside >= 0 && v.removed[id].Whole {
				v.fault(Fault{Log: id, What: fmt.Sprintf("%s, of %d records, cannot be checked: retention removed the log; use a newer one", d.from, d.size)})
			}
		}
	}
}

// judgeGaps looks for the record of each removal.
func (v *verifier) judgeGaps() {
	for _, g := range v.gaps {
		r, ok := v.removed[g.log]
		switch {
		case ok && r.Whole:
			v.note("log %s was removed by retention", g.log)
		case ok && g.segment > 0 && r.Segment >= g.segment:
			v.note("log %s: segments up to %d were removed by retention", g.log, g.segment)
		default:
			v.overtaken = v.late
			v.fault(g.what)
		}
	}
}

// hasBeside reports a checkpoint beside a log; one that began just now may have got it since.
func (v *verifier) hasBeside(log string) bool {
	if v.beside[log] {
		return true
	}
	_, err := os.Stat(checkpointPath(v.dir, log))
	return err == nil
}

func (v *verifier) lives(log string) bool { return v.running[log] }

func (v *verifier) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(v.report.Notes, text) {
		v.report.Notes = append(v.report.Notes, text)
	}
}

func (v *verifier) finish() {
	r := &v.report
	slices.Reverse(r.Logs)
	slices.SortStableFunc(r.Faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	slices.Sort(r.Notes)
	for _, l := range r.Logs {
		if l.Last >= l.First && l.First > 0 {
			r.Records += l.Last - l.First + 1
			r.Removed += l.First - 1
		}
		if l.Last > l.Signed {
			r.Unsigned += l.Last - l.Signed
		}
	}
	r.Whole = len(r.Faults) == 0
	if v.opts.Progress != nil {
		v.opts.Progress(v.total, v.total)
	}
}

// step counts what was read.
func (v *verifier) step(n int) error {
	v.done += int64(n)
	if v.done-v.told < 1<<20 {
		return nil
	}
	v.told = v.done
	if v.opts.Progress != nil {
		v.opts.Progress(min(v.done, v.total), v.total)
	}
	return v.ctx.Err()
}

// takePrevious notes what a record says of earlier logs.
func (v *verifier) takePrevious(in string, seq uint64, list []PreviousLog) {
	for _, p := range list {
		if p.Fault != "" {
			v.fault(Fault{Log: p.Log, What: fmt.Sprintf("log %s found that %s", in, p.Fault)})
		}
		if p.Log >= in {
			continue
		}
		v.adopted[p.Log] = v.adopted[p.Log] || p.Adopted
		v.demands[p.Log] = append(v.demands[p.Log], demand{size: p.Size, root: p.Root, end: p.Ended, outside: -1,
			from: fmt.Sprintf("record %d of log %s", seq, in)})
	}
}

func (v *verifier) takeRemoved(list []Removed) {
	for _, r := range list {
		had := v.removed[r.Log]
		v.removed[r.Log] = Removed{Log: r.Log, Segment: max(had.Segment, r.Segment), Whole: had.Whole || r.Whole}
	}
}
