package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// Kinds of a target.
const (
	ExportStdout = "stdout" // JSON lines
	ExportFile   = "file"   // JSON lines, appended; reopened when the file was moved away
	ExportSyslog = "syslog" // RFC 5424
)

// A Target is a place that records are sent to, each line as it stands in the log.
type Target struct {
	Name    string // tells targets apart: letters, digits, - and _. Required.
	Kind    string // Required.
	Path    string // of kind file. Required there.
	Address string // of kind syslog: tcp://HOST:PORT (octet counting, RFC 6587), udp://HOST:PORT, unix:///PATH (datagrams)
}

var targetName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Validate says what is wrong with a target.
func (t Target) Validate() error {
	switch {
	case !targetName.MatchString(t.Name):
		return fmt.Errorf("name %q: 1 to 64 letters, digits, - and _", t.Name)
	case t.Kind == ExportStdout:
		return nil
	case t.Kind == ExportFile && t.Path == "":
		return errors.New("path: required for kind file")
	case t.Kind == ExportFile:
		return nil
	case t.Kind == ExportSyslog:
		_, _, err := t.dial()
		return err
	}
	return fmt.Errorf("kind %q: %s, %s or %s", t.Kind, ExportStdout, ExportFile, ExportSyslog)
}

// dial returns network and address for package net.
func (t Target) dial() (network, address string, err error) {
	u, err := url.Parse(t.Address)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("address %q: %w", t.Address, err)
	case (u.Scheme == "tcp" || u.Scheme == "udp") && u.Hostname() != "" && u.Port() != "" && u.Path == "":
		return u.Scheme, u.Host, nil
	case u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path):
		return "unixgram", u.Path, nil
	}
	return "", "", fmt.Errorf("address %q: tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH", t.Address)
}

// ExporterConfig configures an exporter.
type ExporterConfig struct {
	Dir    string       // the log's folder; the position is kept there too. Required.
	Log    *Log         // of this process, in the same folder. Optional: without it the files are looked at.
	Target Target       // Required.
	Stdout io.Writer    // for kind stdout. Default os.Stdout.
	Logger *slog.Logger // Optional.
}

// An Exporter sends the records of a folder to a target: each that is on the disk, in order, at least once. It keeps its
// position durably and goes on from there; after a crash or a lost connection, what was sent in the last seconds is sent
// again. Syslog has no acknowledgements: what the target's system took and its program did not is lost. The log never waits
// for an export. Of several processes with one folder only one serves a target at a time.
type Exporter struct {
	cfg  ExporterConfig
	feed feed
	lock *durable.FileLock
	in   *Reader
	out  outlet
	// Behind saved everything has arrived; candidate may be saved when some time has passed and the outlet still works.
	saved     Position
	candidate Position
	since     time.Time
}

// An outlet is where entries go. After an error it is only closed.
type outlet interface {
	send(e *Entry) error
	flush() error
	// alive reports why nothing more can arrive, as far as that is known.
	alive() error
	close() error
}

const (
	exportBatch = 500
	// settleTime is how long an outlet must have worked before what it took counts as arrived.
	settleTime    = time.Second
	exportTimeout = 10 * time.Second // of a connection and of a write
)

// NewExporter returns an exporter. Run does the work.
func NewExporter(cfg ExporterConfig) (*Exporter, error) {
	if cfg.Dir == "" {
		return nil, errors.New("audit: an export needs a folder")
	}
	if err := cfg.Target.Validate(); err != nil {
		return nil, fmt.Errorf("audit export: %w", err)
	}
	if cfg.Stdout == nil {
		cfg.Stdout = os.Stdout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Exporter{cfg: cfg, feed: feed{name: cfg.Target.Name, logger: cfg.Logger}}, nil
}

// Status says how far the export is.
func (x *Exporter) Status() FeedStatus { return x.feed.status() }

// Run exports until ctx ends. What fails is tried again, with growing pauses.
func (x *Exporter) Run(ctx context.Context) error {
	defer x.end()
	return x.feed.run(ctx, func(ctx context.Context) (int, error) {
		n, err := x.step(ctx)
		if err != nil {
			x.hangUp()
		}
		return n, err
	}, x.wait)
}

func (x *Exporter) path(suffix string) string {
	return filepath.Join(x.cfg.Dir, "export-"+x.cfg.Target.Name+suffix)
}

// end saves the position and gives everything up.
func (x *Exporter) end() {
	if x.out != nil && x.out.alive() == nil {
		x.keep(x.in.Position()) // a batch was flushed, or the outlet is gone
	}
	x.hangUp()
	if x.lock != nil {
		_ = x.lock.Unlock()
		x.lock = nil
	}
}

// hangUp closes the outlet. What is not saved is sent again.
func (x *Exporter) hangUp() {
	if x.out != nil {
		_ = x.out.close()
	}
	if x.in != nil {
		_ = x.in.Close()
	}
	x.out, x.in, x.candidate = nil, nil, Position{}
}

func (x *Exporter) wait(ctx context.Context) error {
	if x.in == nil {
		sleep(ctx, pollInterval)
		return ctx.Err()
	}
	return x.in.Wait(ctx)
}

// step sends a batch and returns how many records it had.
func (x *Exporter) step(ctx context.Context) (int, error) {
	if ok, err := x.claim(); !ok || err != nil {
		return 0, err
	}
	if x.out == nil {
		if err := x.connect(ctx); err != nil {
			return 0, err
		}
	}
	if err := x.out.alive(); err != nil {
		return 0, err
	}
	x.settle()
	n, err := x.batch(ctx)
	if err != nil || n == 0 {
		return 0, err
	}
	if err := x.out.flush(); err != nil {
		return 0, err
	}
	if x.candidate == (Position{}) {
		x.candidate, x.since = x.in.Position(), time.Now()
	}
	x.feed.moved(x.in.Position(), n)
	return n, nil
}

// claim makes this process the one that serves the target.
func (x *Exporter) claim() (bool, error) {
	if x.lock != nil {
		return true, nil
	}
	lock, err := durable.TryLock(x.path(lockSuffix))
	if errors.Is(err, durable.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := x.load(); err != nil { // tried again, or everything would be sent again
		_ = lock.Unlock()
		return false, err
	}
	x.lock = lock
	return true, nil
}

// load reads the position. One that is broken is set aside, and everything is sent again.
func (x *Exporter) load() error {
	data, err := durable.ReadFile(x.path(".position"), maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if x.saved, err = ParsePosition(strings.TrimSpace(string(data))); err != nil {
		aside, _ := durable.SetAside(x.path(".position"))
		x.cfg.Logger.Error("the position of an export is broken; everything is sent again", "to", x.cfg.Target.Name, "aside", aside, "error", err)
	}
	return nil
}

func (x *Exporter) connect(ctx context.Context) (err error) {
	switch t := x.cfg.Target; t.Kind {
	case ExportStdout:
		x.out = &lineOutlet{w: bufio.NewWriter(x.cfg.Stdout)}
	case ExportFile:
		var out *fileOutlet
		if out, err = openFileOutlet(t.Path); err == nil {
			x.out = out
		}
	default:
		x.out, err = dialSyslog(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("export audit records: %w", err)
	}
	if x.cfg.Log != nil {
		x.in = x.cfg.Log.Follow(x.saved)
	} else {
		x.in = NewReader(x.cfg.Dir, x.saved)
	}
	return nil
}

// settle saves what has arrived.
func (x *Exporter) settle() {
	if x.candidate != (Position{}) && time.Since(x.since) >= settleTime {
		x.keep(x.candidate)
		x.candidate = Position{}
	}
}

// keep saves a position. Where that fails, more is sent again after a restart; the export goes on.
func (x *Exporter) keep(pos Position) {
	if pos == (Position{}) {
		return
	}
	if err := durable.WriteFile(x.path(".position"), []byte(pos.String()+"\n"), 0o600); err != nil {
		x.cfg.Logger.Warn("the position of an export is not saved", "to", x.cfg.Target.Name, "error", err)
		return
	}
	x.saved = pos
}

func (x *Exporter) batch(ctx context.Context) (n int, err error) {
	for ; n < exportBatch && ctx.Err() == nil; n++ {
		e, err := x.in.TryNext()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if e.Gap {
			x.cfg.Logger.Error("audit records were not exported: retention removed them before", "to", x.cfg.Target.Name, "before", e.Position)
		}
		if err := x.out.send(&e); err != nil {
			return n, err
		}
	}
	return n, nil
}

// A lineOutlet writes JSON lines.
type lineOutlet struct{ w *bufio.Writer }

func (o *lineOutlet) send(e *Entry) error {
	if _, err := o.w.Write(e.Line); err != nil {
		return err
	}
	return o.w.WriteByte('\n')
}

func (o *lineOutlet) flush() error { return o.w.Flush() }
func (o *lineOutlet) alive() error { return nil }
func (o *lineOutlet) close() error { return nil }

// A fileOutlet appends JSON lines to a file, with 0600 where it makes it.
type fileOutlet struct {
	lineOutlet
	path string
	f    *os.File
	info os.FileInfo
}

func openFileOutlet(path string) (*fileOutlet, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &fileOutlet{lineOutlet{bufio.NewWriter(f)}, path, f, info}, nil
}

func (o *fileOutlet) flush() error {
	if err := o.lineOutlet.flush(); err != nil {
		return err
	}
	return o.f.Sync()
}

func (o *fileOutlet) close() error { return o.f.Close() }

// alive opens the file anew when its path leads elsewhere, as after a rotation. What was flushed is in the old one.
func (o *fileOutlet) alive() error {
	if now, err := os.Stat(o.path); err == nil && os.SameFile(now, o.info) {
		return nil
	}
	next, err := openFileOutlet(o.path)
	if err != nil {
		return err
	}
	_ = o.f.Close()
	*o = *next
	return nil
}
