package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/mod/sumdb/note"
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
	// find no room there are lost, and counted. What lets people do more (policy.changed, policy.rolled_back,
	// request.approved, lock.removed) fails in any case.
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
	defaultSegmentSize       = 64 << 20
	defaultMinFree           = 32 << 20
	defaultSyncDelay         = 50 * time.Millisecond
	defaultRepeatWindow      = time.Minute
	defaultQueue             = 16 << 10
	defaultCheckpointEvery   = 10 * time.Second
	defaultCheckpointRecords = 1000
	maxUnsynced              = 1 << 20 // bytes after which the sync does not wait
	maxBacklog               = 20_000  // records kept while nothing can be written
	maxBatch                 = 512     // records in one write
	retryInterval            = time.Second
	shoutInterval            = time.Minute // between complaints while streams go on unrecorded
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
	if c.Queue <= 0 {
		c.Queue = defaultQueue
	}
	if c.CheckpointEvery <= 0 {
		c.CheckpointEvery = defaultCheckpointEvery
	}
	if c.CheckpointRecords <= 0 {
		c.CheckpointRecords = defaultCheckpointRecords
	}
	if c.Origin == "" {
		c.Origin = c.Gateway
	}
	switch c.OnFailure {
	case "":
		c.OnFailure = Refuse
	case Refuse, Continue:
	default:
		return fmt.Errorf("audit: OnFailure is %q, and must be %q or %q", c.OnFailure, Refuse, Continue)
	}
	if c.Signer != nil && c.PublicKey == "" {
		return errors.New("audit: a signer without its public key")
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
