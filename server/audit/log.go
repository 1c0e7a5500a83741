package audit

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// Errors that callers branch on.
var (
	// ErrClosed reports a record after Close.
	ErrClosed = errors.New("audit log is closed")
	// ErrNoSpace refuses what opens something while the disk has less than Config.MinFree left, so that
	// what is open can still be closed in the record.
	ErrNoSpace = errors.New("too little space for the audit log")
	// ErrBusy reports that too many records wait for the disk.
	ErrBusy = errors.New("too many audit records wait for the disk")
)

// Config configures a log.
type Config struct {
	Dir     string // the folder; made with 0700 where it is missing. Required.
	Gateway string // name of the gateway, for the first record. Optional.
	Version string // of the program, for the first record. Optional.

	// SegmentSize is when a new file begins, in bytes. Default 64 MiB.
	SegmentSize int64
	// KeepBytes is how much all logs together may take; the oldest segments are removed beyond that, and
	// the log says so. 0 keeps everything.
	KeepBytes int64
	// MinFree is the space below which nothing new is opened. Default 32 MiB; negative: none. The alarm
	// begins at four times that.
	MinFree int64
	// SyncDelay is how long records of streams wait for their sync. Default 50 ms.
	SyncDelay time.Duration
	// RepeatWindow is how long repetitions of a refusal are counted before a record says how many.
	// Default 1 min.
	RepeatWindow time.Duration

	// OnFailure says what happens while records cannot be written: with [Refuse], the default, Append fails, and its
	// callers open nothing new. With [Continue] it does not, and records wait in memory for the disk; those that
	// find no room there are lost, and counted.
	OnFailure OnFailure
	// Queue is how many records may wait for the disk. Beyond it Append fails with ErrBusy. Default 16,384.
	Queue int

	// Origin names the gateway in checkpoints, and its key. It must not change, since the key keeps its first name.
	// Default: Gateway.
	Origin string
	// Signer signs checkpoints. Default: the key in Dir, made at the first start. PublicKey must come with it, as
	// golang.org/x/mod/sumdb/note writes it.
	Signer    note.Signer
	PublicKey string
	// CheckpointEvery and CheckpointRecords are after how long and how many records one is signed, if there are
	// new records at all. Default 10 s and 1,000.
	CheckpointEvery   time.Duration
	CheckpointRecords int
	// OnCheckpoint is told the newest checkpoint, after its records are on the disk; the last one by Close. It is called
	// from a goroutine of its own, one call at a time; while it runs, older checkpoints give way to newer ones.
	// Optional.
	OnCheckpoint func(Checkpoint)

	Now    func() time.Time // Optional.
	Logger *slog.Logger     // Optional.

	fs fileSystem // the seam for tests
}

// OnFailure says what happens while records cannot be written.
type OnFailure string

// What can be chosen.
const (
	Refuse   OnFailure = "refuse"
	Continue OnFailure = "continue"
)

const (
	defaultSegmentSize  = 64 << 20
	defaultMinFree      = 32 << 20
	defaultSyncDelay    = 50 * time.Millisecond
	defaultRepeatWindow = time.Minute
	maxUnsynced         = 1 << 20 // bytes after which the sync does not wait
	maxBacklog          = 20_000  // closing records kept while nothing can be written
	retryInterval       = time.Second
)

func (c *Config) setDefaults() error {
	if c.Dir == "" {
		return errors.New("audit: no folder")
	}
	if c.SegmentSize <= 0 {
		c.SegmentSize = defaultSegmentSize
	}
	if c.MinFree == 0 {
		c.MinFree = defaultMinFree
	}
	if c.SyncDelay <= 0 {
		c.SyncDelay = defaultSyncDelay
	}
	if c.RepeatWindow <= 0 {
		c.RepeatWindow = defaultRepeatWindow
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.fs == nil {
		c.fs = osFileSystem{}
	}
	return nil
}

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

	closing sync.Once
	mu      sync.Mutex
	w       writer
	repeats repeats
	backlog []Record // closing records that could not be written
	lost    uint64   // closing records that did not fit there either
	stopped bool
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
		cfg: cfg, id: newLogID(cfg.Now()),
		closed: make(chan struct{}), done: make(chan struct{}),
		urgent: make(chan struct{}, 1), soon: make(chan struct{}, 1),
	}
	var err error
	if l.owner, err = durable.TryLock(l.lockPath()); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l.w.init(&l.cfg, l.id)
	l.repeats.init(cfg.RepeatWindow)
	if err := l.begin(); err != nil {
		l.w.close()
		l.release()
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	go l.keep()
	return l, nil
}

// begin writes the first records and recovers dead logs, all synced.
func (l *Log) begin() error {
	first := Record{Time: l.stamp(time.Time{}), Event: EventLogOpened, Process: &Process{
		Log: l.id, Gateway: l.cfg.Gateway, Version: l.cfg.Version, PID: os.Getpid(),
	}}
	if err := l.w.write(&first); err != nil {
		return err
	}
	dead, err := l.recover()
	if err == nil {
		err = errors.Join(l.w.syncAll(), l.w.prune())
	}
	for _, d := range dead {
		d.release(err == nil, l.cfg.Logger)
	}
	return err
}

func (l *Log) lockPath() string { return filepath.Join(l.cfg.Dir, l.id+lockSuffix) }

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
	l.mu.Lock()
	receipt, round, err := l.appendLocked(&r)
	l.mu.Unlock()
	if err != nil {
		return Receipt{}, err
	}
	return receipt, l.await(ctx, round)
}

func (l *Log) stamp(t time.Time) time.Time {
	if t.IsZero() {
		t = l.cfg.Now()
	}
	return t.UTC().Truncate(time.Millisecond)
}

// appendLocked writes a record and returns the round of syncs to wait for, if any.
func (l *Log) appendLocked(r *Record) (Receipt, *round, error) {
	if l.stopped {
		return Receipt{}, nil, ErrClosed
	}
	if err := l.admitLocked(r); err != nil {
		return Receipt{}, nil, fmt.Errorf("append audit record: %w", err)
	}
	l.drainBacklogLocked()
	if err := l.w.write(r); err != nil {
		l.postponeLocked(r)
		return Receipt{}, nil, fmt.Errorf("append audit record: %w", err)
	}
	receipt := Receipt{Seq: r.Seq, Reference: r.Reference, Stream: r.Stream}
	if r.Event.lazy() && l.w.unsynced() < maxUnsynced {
		signal(l.soon)
		return receipt, nil, nil
	}
	round := l.w.join()
	signal(l.urgent)
	return receipt, round, nil
}

// admitLocked refuses what opens something while space is short, and names what is opened.
func (l *Log) admitLocked(r *Record) error {
	switch r.Event {
	case EventStreamOpen, EventSessionOpen, EventIssued:
		if err := l.w.checkSpace(); err != nil {
			return err
		}
	}
	if (r.Event == EventStreamOpen || r.Event == EventSessionOpen) && r.Stream == "" {
		r.Stream = l.id + "/" + strconv.FormatUint(l.w.seq+1, 10)
	}
	return nil
}

// postponeLocked keeps a closing record for later: what was opened in the record must end there too.
func (l *Log) postponeLocked(r *Record) {
	if !r.Event.closes() {
		return
	}
	if len(l.backlog) >= maxBacklog {
		l.lost++
		return
	}
	l.backlog = append(l.backlog, *r)
}

func (l *Log) drainBacklogLocked() {
	for len(l.backlog) > 0 {
		if err := l.w.write(&l.backlog[0]); err != nil {
			return
		}
		l.backlog = l.backlog[1:]
	}
	l.backlog = nil
	if l.lost > 0 {
		r := Record{Time: l.stamp(time.Time{}), Event: EventLogLost, Detail: fmt.Sprintf("%d closing records did not fit into memory while nothing could be written", l.lost)}
		if l.w.write(&r) == nil {
			l.lost = 0
		}
	}
}

// await waits until the round's sync is over.
func (l *Log) await(ctx context.Context, r *round) error {
	if r == nil {
		return nil
	}
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

// keep is the log's goroutine: it syncs, writes summaries of repetitions, watches the free space and
// retries after a fault.
func (l *Log) keep() {
	defer close(l.done)
	window := time.NewTicker(l.cfg.RepeatWindow)
	defer window.Stop()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		select {
		case <-l.urgent:
			l.sync()
		case <-l.soon:
			l.pause()
			l.sync()
		case <-window.C:
			l.flushRepeats()
		case <-retry.C:
			l.heal()
		case <-l.closed:
			return
		}
	}
}

// pause lets more records gather before a sync, unless one is urgent.
func (l *Log) pause() {
	t := time.NewTimer(l.cfg.SyncDelay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.urgent:
	case <-l.closed:
	}
}

// sync runs one round: everything written before it begins is on the disk when it ends.
func (l *Log) sync() {
	l.mu.Lock()
	if l.w.idle() {
		l.mu.Unlock()
		return
	}
	round, files := l.w.beginRound()
	l.mu.Unlock()
	err := syncFiles(files)
	l.mu.Lock()
	l.w.endRound(round, files, err)
	l.mu.Unlock()
	if err != nil {
		l.cfg.Logger.Error("audit log is not written to the disk", "err", err)
	}
}

// heal writes what waits, once a second, so that a log recovers without new events.
func (l *Log) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w.failed() || len(l.backlog) > 0 || l.lost > 0 {
		l.w.repair()
		l.drainBacklogLocked()
		signal(l.soon)
	}
	l.w.watchSpace()
}

// Status says how the log is.
type Status struct {
	Log     string
	Seq     uint64 // of the last record
	Err     error  // nil, or why records cannot be written at the moment
	Free    int64  // bytes on the disk, -1 where not known
	Low     bool   // less than four times MinFree: time to act
	Waiting int    // closing records in memory
	Counted int    // distinct refusals that are being counted
}

// Status returns how the log is; an early alarm looks at Low and Err.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.w.status()
	st.Log, st.Waiting, st.Counted = l.id, len(l.backlog), l.repeats.len()
	return st
}

// Close writes what is counted or waits, the log's last record, and syncs. A second Close does nothing.
func (l *Log) Close() error {
	var err error
	l.closing.Do(func() {
		l.flushRepeats()
		close(l.closed)
		<-l.done
		err = l.end()
		l.release()
	})
	return err
}

func (l *Log) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.w.repair()
	l.drainBacklogLocked()
	r := Record{Time: l.stamp(time.Time{}), Event: EventLogClosed}
	err := l.w.write(&r)
	if err == nil {
		err = l.w.syncAll()
	}
	l.w.close()
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

// newLogID returns a name that sorts by time and is used once.
func newLogID(now time.Time) string {
	return now.UTC().Format(logTimeLayout) + "-" + randomName()
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
