package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// fileSystem is the seam below the writer.
type fileSystem interface {
	// create makes a file that must not exist, for appending, with 0600, and makes its name durable.
	create(path string) (file, error)
	// free returns the bytes that are left where dir is, or -1.
	free(dir string) int64
}

type file interface {
	Write(p []byte) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

type osFileSystem struct{}

func (osFileSystem) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return f, nil
}

func (osFileSystem) free(dir string) int64 { return freeBytes(dir) }

// A writer puts lines into segments and grows the tree over them. Who holds the log's pen may use it.
//
// A segment counts up to the record with which the next one begins. So a segment that was given up, because a write or
// a sync failed, may end in anything: what may be lost of it stands again at the beginning of the next.
type writer struct {
	cfg     *Config
	id      string
	signer  note.Signer
	tree    tree   // of all lines written; its size is the number of the last record
	prev    string // what the next line says of the last one
	synced  tree   // of the lines that are on the disk for certain
	segment int    // number of the current segment
	path    string
	file    file // nil: the next write begins a segment
	size    int64
	retired []file   // earlier segments, not synced yet
	pending [][]byte // lines since the last good sync, to be written again if the disk lost them
	bytes   int      // of pending
	again   bool     // a sync failed: pending must be written again before anything else
	gaveUp  int      // the first segment that was given up, until one that says so is there; 0: none
	next    *round
	fault   error     // why the last write or sync failed
	tried   time.Time // when a fault was last tried to be mended
	free    int64
	low     bool

	signed uint64      // number of the last record with a checkpoint in it
	news   *Checkpoint // signed, and to be told when it is on the disk
	doomed []string    // files that go when the record of that is on the disk
	hashes []tlog.Hash // scratch
	joined []byte      // scratch
}

func (w *writer) init(cfg *Config, id string, signer note.Signer) {
	*w = writer{cfg: cfg, id: id, signer: signer, next: newRound(), free: -1}
	w.watchSpace()
}

// write numbers lines and hands them to the system, all or none. It returns the number of the first.
func (w *writer) write(bodies []body) (uint64, error) {
	if err := w.ready(); err != nil {
		return 0, err
	}
	first, err := w.lines(bodies)
	if err == nil && w.tree.size-w.signed >= uint64(w.cfg.CheckpointRecords) {
		_ = w.checkpoint() // a failure shows at the next write
	}
	return first, err
}

// put is write for a record of the log's own.
func (w *writer) put(r *Record) error {
	if err := w.ready(); err != nil {
		return err
	}
	return w.line(r)
}

func (w *writer) line(r *Record) error {
	b, err := encode(r)
	if err != nil {
		return err
	}
	r.Seq, err = w.lines([]body{b})
	return err
}

// ready has a segment open that can take a line. After a fault it tries at most once a second.
func (w *writer) ready() error {
	if w.fault != nil {
		if w.cfg.Now().Sub(w.tried).Abs() < retryInterval {
			return w.fault
		}
		w.repair()
		if w.fault != nil {
			return w.fault
		}
	}
	if w.file != nil && w.size >= w.cfg.SegmentSize {
		w.retire()
	}
	if w.file == nil {
		return w.fail(w.begin())
	}
	return nil
}

// lines writes numbered lines, or leaves the segment as it was. Where that cannot be done the segment is given up.
func (w *writer) lines(bodies []body) (first uint64, err error) {
	first = w.tree.size + 1
	list := w.compose(bodies)
	text := w.text(list)
	n, err := w.file.Write(text)
	if err == nil && n < len(text) {
		err = errors.New("short write")
	}
	if err != nil {
		if n > 0 && w.file.Truncate(w.size) != nil {
			w.giveUp(w.segment)
			w.retire()
		}
		return 0, w.fail(err)
	}
	w.size += int64(n)
	w.account(list)
	return first, nil
}

// text returns lines as one; it holds until the next call.
func (w *writer) text(list [][]byte) []byte {
	if len(list) == 1 {
		return list[0]
	}
	w.joined = w.joined[:0]
	for _, line := range list {
		w.joined = append(w.joined, line...)
	}
	return w.joined
}

// compose puts number and link into lines; their hashes are in hashes then.
func (w *writer) compose(bodies []body) [][]byte {
	w.hashes = w.hashes[:0]
	list, prev := make([][]byte, len(bodies)), w.prev
	for i, b := range bodies {
		line := number(b, w.tree.size+1+uint64(i), prev)
		h := tlog.RecordHash(line[:len(line)-1])
		prev = prevOf(h)
		w.hashes = append(w.hashes, h)
		list[i] = line
	}
	return list
}

// unnumbered is how the line of a record without a number begins.
const unnumbered = `{"seq":0`

// number puts its number, and what links it to the line before, into a line, in the room that is there for it.
func number(b body, seq uint64, prev string) []byte {
	var head [room + len(unnumbered)]byte
	text := append(head[:0], unnumbered[:len(unnumbered)-1]...)
	text = strconv.AppendUint(text, seq, 10)
	if prev != "" {
		text = append(text, `,"prev":"`...)
		text = append(text, prev...)
		text = append(text, '"')
	}
	line := b[room+len(unnumbered)-len(text):]
	copy(line, text)
	return line
}

// account remembers the composed lines as written.
func (w *writer) account(list [][]byte) {
	for i, line := range list {
		w.tree.addHash(w.hashes[i])
		w.bytes += len(line)
	}
	w.pending = append(w.pending, list...)
	w.prev = prevOf(w.hashes[len(w.hashes)-1])
}

// begin opens the next segment. It begins with what an earlier one may have lost; then a record names it, with what is
// needed to verify it alone. The first segment begins with what the log writes first.
func (w *writer) begin() error {
	number := w.segment + 1
	path := w.segmentPath(number)
	f, err := w.cfg.fs.create(path)
	if err != nil {
		return err
	}
	var text []byte
	if w.again {
		text = bytes.Join(w.pending, nil)
	}
	var head [][]byte
	var told *Checkpoint
	if number > 1 {
		if head, told, err = w.head(number); err == nil {
			text = append(text, w.text(head)...)
		}
	}
	if err == nil && len(text) > 0 {
		_, err = f.Write(text)
	}
	if err != nil {
		_ = f.Close()
		if os.Remove(path) != nil {
			w.giveUp(number)
			w.segment = number // its name is taken
		}
		return err
	}
	w.file, w.path, w.size, w.segment, w.again = f, path, int64(len(text)), number, false
	w.gaveUp = 0
	if number == 1 {
		return nil
	}
	w.account(head)
	w.signed, w.news = w.tree.size, told
	return w.prune()
}

func (w *writer) segmentPath(number int) string { return segmentPath(w.cfg.Dir, w.id, number) }

func segmentPath(dir, id string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%06d%s", id, number, segmentSuffix))
}

// head composes the record that names a segment.
func (w *writer) head(number int) ([][]byte, *Checkpoint, error) {
	c, err := sign(w.signer, w.id, &w.tree)
	if err != nil {
		return nil, nil, err
	}
	before := &w.tree
	if w.again {
		before = &w.synced
	}
	b, err := encode(&Record{Time: w.now(), Event: EventLogSegment, Tree: before.state(), Checkpoint: c.Note,
		Process: &Process{Log: w.id, Segment: number, GaveUp: w.gaveUp, Gateway: w.cfg.Gateway}})
	if err != nil {
		return nil, nil, err
	}
	return w.compose([]body{b}), &c, nil
}

// checkpoint signs all records before it, if there are new ones.
func (w *writer) checkpoint() error {
	if w.tree.size == w.signed {
		return nil
	}
	return w.sealed(&Record{Time: w.now(), Event: EventLogCheckpoint})
}

// sealed writes a record that signs all before it.
func (w *writer) sealed(r *Record) error {
	if err := w.ready(); err != nil { // it may begin a segment, which is to be signed too
		return err
	}
	c, err := sign(w.signer, w.id, &w.tree)
	if err != nil {
		w.cfg.Logger.Error("the audit log cannot be signed", "error", err)
		return err
	}
	if r.Checkpoint = c.Note; r.Event == EventLogClosed {
		r.Tree = w.tree.state()
	}
	if err := w.line(r); err != nil {
		return err
	}
	w.signed, w.news = w.tree.size, &c
	return nil
}

func (w *writer) now() time.Time { return w.cfg.Now().UTC().Truncate(time.Millisecond) }

// giveUp notes that a segment may end in what does not count. The next one says so, or nobody could tell that from what
// somebody else put there.
func (w *writer) giveUp(segment int) {
	if w.gaveUp == 0 || segment < w.gaveUp {
		w.gaveUp = max(segment, 1)
	}
}

// retire ends the current segment; the next round syncs and closes it.
func (w *writer) retire() {
	if w.file != nil {
		w.retired = append(w.retired, w.file)
		w.file = nil
	}
}

// fail remembers why nothing can be written.
func (w *writer) fail(err error) error {
	if err == nil {
		w.fault = nil
		return nil
	}
	if w.fault == nil {
		w.cfg.Logger.Error("audit log cannot be written", "new_streams", w.cfg.OnFailure, "error", err)
	}
	w.fault, w.tried = err, w.cfg.Now()
	return err
}

// repair ends a fault if it can. After a failed sync nobody knows what the disk holds of the segment (the kernel drops
// such pages and reports it once), so that what was not synced is written again into a new one.
func (w *writer) repair() {
	if w.fault == nil {
		return
	}
	w.fault = nil
	if w.again {
		w.retire()
		if err := w.begin(); err != nil {
			_ = w.fail(err)
			return
		}
	}
	w.cfg.Logger.Info("audit log tries again to write")
}

// idle reports that there is nothing to sync, and so nobody who waits.
func (w *writer) idle() bool { return len(w.pending) == 0 && len(w.retired) == 0 }

// close gives the files up as they are.
func (w *writer) close() {
	w.retire()
	for _, f := range w.retired {
		_ = f.Close()
	}
	w.retired = nil
}

// watchSpace looks at the free space and raises the alarm early, once.
func (w *writer) watchSpace() {
	w.free = w.cfg.fs.free(w.cfg.Dir)
	low := w.free >= 0 && w.cfg.MinFree > 0 && w.free < 4*w.cfg.MinFree
	if low && !w.low {
		w.cfg.Logger.Error("audit log runs out of space; new streams will be refused", "dir", w.cfg.Dir, "free_bytes", w.free, "refused_below", w.cfg.MinFree)
	}
	w.low = low
}

func (w *writer) checkSpace() error {
	if w.free >= 0 && w.cfg.MinFree > 0 && w.free < w.cfg.MinFree {
		return fmt.Errorf("%w: %d bytes are free, %d are kept", ErrNoSpace, w.free, w.cfg.MinFree)
	}
	return nil
}
