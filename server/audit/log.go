package audit

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// A Log is this process's audit log. It is safe for concurrent use; make one with [Open] and end it
// with Close.
type Log struct {
	cfg    Config
	id     string // start time and random name: "20261123T101500Z-k7qw3m9p"
	owner  *durable.FileLock
	closed chan struct{}
	urgent chan struct{} // sync now
	soon   chan struct{} // sync within SyncDelay
	done   chan struct{} // the keeper has ended
	notary notary
	names  atomic.Uint64 // streams named

	// Who has the pen writes. It is held while the system takes a line, but not for a sync. Who has the pen may take mu;
	// nobody waits for the pen with mu held.
	pen sync.Mutex
	w   writer
	// adopt: there was no key, so logs that are there may have no signatures.
	adopt bool
	run   []PreviousLog // logs whose processes run beside this one, as last seen; with the pen

	closing sync.Once
	mu      sync.Mutex
	queue   []*batch // records that wait for the pen, oldest first
	queued  int      // records in queue
	snap    snapshot // of w, when the pen was last put down
	repeats repeats
	backlog []body // records that could not be written
	lost    uint64 // records that did not fit there either
	allLost uint64 // since the log began
	shouted time.Time
	stopped bool
	grown   chan struct{} // closed when more is on the disk
	end     Position      // behind the last record that is on the disk
}

// snapshot is what is known of the writer without the pen.
type snapshot struct {
	seq      uint64
	unsynced int // records
	bytes    int
	fault    error
	space    error
	free     int64
	low      bool
	signed   uint64
}

// Open starts a new log in cfg.Dir and writes the missing closing records of logs whose process died.
// The log's own first records are on the disk when it returns.
func Open(cfg Config) (*Log, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if err := durable.MkdirPrivate(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &Log{
		cfg: cfg, closed: make(chan struct{}), done: make(chan struct{}),
		urgent: make(chan struct{}, 1), soon: make(chan struct{}, 1), grown: make(chan struct{}),
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	go l.keep()
	return l, nil
}

func (l *Log) open() (err error) {
	if l.cfg.Signer == nil {
		if l.cfg.Signer, l.cfg.PublicKey, l.adopt, err = keyOf(l.cfg.Dir, l.cfg.Origin); err != nil {
			return err
		}
	}
	if l.id, err = nextLogID(l.cfg.Dir, l.cfg.Now()); err != nil {
		return err
	}
	if l.owner, err = durable.TryLock(l.lockPath()); err != nil {
		return err
	}
	l.w.init(&l.cfg, l.id, l.cfg.Signer)
	l.repeats.init(l.cfg.RepeatWindow)
	l.notary.init(&l.cfg)
	if err := l.begin(); err != nil {
		l.w.close()
		l.release()
		return err
	}
	return nil
}

// begin writes the first records and recovers dead logs, all synced.
func (l *Log) begin() error {
	dead, err := l.findDead()
	defer func() {
		for _, d := range dead {
			d.release(err == nil, l.cfg.Logger)
		}
	}()
	if err != nil {
		return err
	}
	past, err := l.studyPast(dead)
	if err != nil {
		return err
	}
	l.run = past.running()
	err = l.w.put(&Record{Time: l.stamp(time.Time{}), Event: EventLogOpened, Previous: past.previous, Process: &Process{
		Log: l.id, Gateway: l.cfg.Gateway, Version: l.cfg.Version, PID: os.Getpid(), Key: l.cfg.PublicKey,
	}})
	if err == nil {
		err = l.closeForAll(dead, past)
	}
	if err == nil {
		err = l.w.prune()
	}
	if err == nil {
		err = l.syncAll()
	}
	if err == nil {
		err = l.tellTree()
	}
	l.note()
	return err
}

// tellTree signs the tree as it is, for the file beside the log. Everything must be on the disk.
func (l *Log) tellTree() error {
	c, err := sign(l.w.signer, l.id, &l.w.tree)
	if err != nil {
		return err
	}
	return l.notary.tell(c)
}

func (l *Log) lockPath() string { return lockPath(l.cfg.Dir, l.id) }

func lockPath(dir, log string) string { return filepath.Join(dir, log+lockSuffix) }

// release gives up the mark that the log's process lives.
func (l *Log) release() {
	_ = l.owner.Unlock()
	_ = os.Remove(l.lockPath())
}

// Append records an event. See the package comment for what its return means. ctx bounds only the wait
// for the disk: when it ends first, the record is written but perhaps not yet synced.
func (l *Log) Append(ctx context.Context, r Record) (Receipt, error) {
	r.Time = l.stamp(r.Time)
	if r.Event.repeats() {
		return l.appendRefusal(ctx, r)
	}
	if (r.Event == EventStreamOpen || r.Event == EventSessionOpen) && r.Stream == "" {
		r.Stream = l.nameStream()
	}
	receipt := Receipt{Reference: r.Reference, Stream: r.Stream}
	text, err := encode(&r)
	if err != nil {
		return Receipt{}, err
	}
	l.mu.Lock()
	t, err := l.enqueueLocked(r.Event, text)
	l.mu.Unlock()
	return l.outcome(ctx, r.Event, text, receipt, t, err)
}

func (l *Log) nameStream() string {
	return l.id + "/" + strconv.FormatUint(l.names.Add(1), 10)
}

// outcome waits for a record in the queue, and says what came of it.
func (l *Log) outcome(ctx context.Context, e Event, text body, receipt Receipt, t ticket, err error) (Receipt, error) {
	if err == nil {
		err = l.written(t)
	}
	if errors.Is(err, ErrClosed) {
		return Receipt{}, err
	}
	if err != nil {
		return l.notWritten(e, text, receipt, err)
	}
	receipt.Seq = t.batch.first + uint64(t.at)
	if e.lazy() && t.batch.unsynced < maxUnsynced {
		signal(l.soon)
		return receipt, nil
	}
	signal(l.urgent)
	if err := l.await(ctx, t.batch.round); err != nil && !l.goesOn(e) {
		return Receipt{}, err
	}
	return receipt, nil
}

// goesOn reports whether what is in a record happens although that could not be written.
func (l *Log) goesOn(e Event) bool { return l.cfg.OnFailure == Continue && !e.widens() }

// notWritten keeps a closing record for later, and with Continue any: what was opened in the record must end there too.
func (l *Log) notWritten(e Event, text body, receipt Receipt, err error) (Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.closes() || l.goesOn(e) {
		if len(l.backlog) < maxBacklog {
			l.backlog = append(l.backlog, text)
		} else {
			l.lost, l.allLost = l.lost+1, l.allLost+1
		}
	}
	if l.goesOn(e) {
		l.shoutLocked(err)
		return receipt, nil
	}
	return Receipt{}, fmt.Errorf("append audit record: %w", err)
}

// shoutLocked says once a minute that things go on unrecorded.
func (l *Log) shoutLocked(err error) {
	now := l.cfg.Now()
	if !l.shouted.IsZero() && now.Sub(l.shouted).Abs() < shoutInterval {
		return
	}
	l.shouted = now
	l.cfg.Logger.Error("AUDIT RECORDS CANNOT BE WRITTEN, and streams go on unrecorded, as configured (on_failure: continue)",
		"waiting", len(l.backlog), "lost", l.allLost, "error", err)
}

func (l *Log) stamp(t time.Time) time.Time {
	if t.IsZero() {
		t = l.cfg.Now()
	}
	return t.UTC().Truncate(time.Millisecond)
}

// await waits until the round's sync is over.
func (l *Log) await(ctx context.Context, r *round) error {
	select {
	case <-r.done:
		if r.err != nil {
			return fmt.Errorf("sync audit log: %w", r.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("sync audit log: %w", context.Cause(ctx))
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Status says how the log is.
type Status struct {
	Log      string
	Seq      uint64 // of the last record
	Err      error  // nil, or why records cannot be written at the moment
	Free     int64  // bytes on the disk, -1 where not known
	Low      bool   // less than four times MinFree: time to act
	Queued   int    // records on their way to the disk
	Unsigned uint64 // records since the last checkpoint
	Waiting  int    // records in memory that could not be written
	Lost     uint64 // records that found no room there, since the log began
	Counted  int    // distinct refusals that are being counted

	// Unrecorded is true while records cannot be written and streams are opened all the same, as configured.
	Unrecorded bool
}

// Status returns how the log is; an early alarm looks at Low and Err.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.snap
	fault := s.fault
	if l.cfg.OnFailure == Refuse {
		fault = errors.Join(s.fault, s.space)
	}
	return Status{
		Log: l.id, Seq: s.seq, Err: fault, Free: s.free, Low: s.low,
		Queued: l.queued + s.unsynced, Unsigned: s.seq - s.signed,
		Waiting: len(l.backlog), Lost: l.allLost, Counted: l.repeats.len(),
		Unrecorded: l.cfg.OnFailure == Continue && s.fault != nil,
	}
}

// PublicKey returns the key that verifies the log's checkpoints, as golang.org/x/mod/sumdb/note writes it.
func (l *Log) PublicKey() string { return l.cfg.PublicKey }

// Dir returns the log's folder.
func (l *Log) Dir() string { return l.cfg.Dir }

// Close writes what is counted or waits, the log's last record, and syncs. A second Close does nothing.
func (l *Log) Close() error {
	var err error
	l.closing.Do(func() {
		l.flushRepeats()
		close(l.closed)
		<-l.done
		l.notary.stop()
		err = l.finish()
		l.release()
	})
	return err
}

// finish refuses further records, writes those that wait and the last one, and signs it all.
func (l *Log) finish() error {
	l.pen.Lock()
	defer l.pen.Unlock()
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.w.repair()
	l.drain()
	l.writeQueue(nil)
	defer l.wake()
	err := l.w.sealed(&Record{Time: l.stamp(time.Time{}), Event: EventLogClosed})
	if err == nil {
		err = l.syncAll()
	}
	l.w.close()
	if err == nil {
		err = l.tellTree()
	}
	l.note()
	if err != nil {
		return fmt.Errorf("close audit log: %w", err)
	}
	return nil
}

const (
	segmentSuffix = ".jsonl"
	lockSuffix    = ".lock"
	logTimeLayout = "20060102T150405Z"
)

// nextLogID returns a name that is used once and sorts behind every log that is there, also when the clock went back.
func nextLogID(dir string, now time.Time) (string, error) {
	logs, err := listSegments(dir)
	if err != nil {
		return "", err
	}
	now = now.UTC().Truncate(time.Second)
	for _, l := range logs {
		stamp, _, _ := cut(l.id)
		if t, err := time.Parse(logTimeLayout, stamp); err == nil && !t.Before(now) {
			now = t.Add(time.Second)
		}
	}
	return now.Format(logTimeLayout) + "-" + randomName(), nil
}

// NewReference returns 40 random bits that can be read out on the telephone: "k7qw-3m9p".
func NewReference() string {
	s := randomName()
	return s[:4] + "-" + s[4:]
}

// randomName is 8 characters of Crockford's base 32, which leaves out i, l, o and u.
func randomName() string {
	var b [5]byte
	rand.Read(b[:])
	return base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").EncodeToString(b[:])
}
