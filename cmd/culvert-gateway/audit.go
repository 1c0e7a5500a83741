package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/server"
	"github.com/culvert-vpn/culvert/server/audit"
)

func (p *program) auditCommand() *cobra.Command {
	return p.group("audit", "Prove, export and index the audit log", p.auditVerifyCommand(), p.auditExportCommand(), p.auditReindexCommand())
}

// interruptible is a context that SIGINT and SIGTERM end.
func interruptible(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
}

// auditDir is the folder that was given, or the configured one.
func (p *program) auditDir(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	cfg, err := p.load(nil)
	if cfg == nil {
		return "", err
	}
	return server.AuditDir(cfg), nil
}

type verifyFlags struct {
	dir         string
	key         string
	checkpoints []string
	database    bool
}

func (p *program) auditVerifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use: "verify", Short: "Prove that no record was removed, changed or reordered", Args: cobra.NoArgs,
		Long: `Prove that no record of the audit log was removed, changed or reordered, and name
the first bad one. The log may be written meanwhile.

Without a checkpoint from outside, an old copy of the folder, or one whose end was
cut together with all that speaks of it, looks like a whole one; and without --key,
so does one that was written anew with a new key. Keep checkpoints
(AUDIT_DIR/*.checkpoint) and audit.pub elsewhere, or use those in the database.

Exit codes: 0 whole, 1 not whole or not verified, 2 usage.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			return p.auditVerify(ctx, f)
		},
	}
	cmd.Flags().StringVar(&f.dir, "dir", "", "the folder of the log (default from the configuration)")
	cmd.Flags().StringVar(&f.key, "key", "", "a file with the public keys that count (default audit.pub in the folder)")
	cmd.Flags().StringArrayVar(&f.checkpoints, "checkpoint", nil, "a checkpoint that was kept elsewhere; may be repeated")
	cmd.Flags().BoolVar(&f.database, "database", false, "compare with the checkpoints in the configured database too")
	return cmd
}

func (p *program) auditVerify(ctx context.Context, f verifyFlags) error {
	dir, err := p.auditDir(f.dir)
	if err != nil {
		return err
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	if f.database {
		if opts.Latest, err = p.databaseCheckpoints(ctx); err != nil {
			return err
		}
	}
	opts.Progress = p.progress("verified")
	report, err := audit.Verify(ctx, dir, opts)
	if err != nil && f.key == "" && missing(filepath.Join(dir, audit.PublicFile)) && !missing(dir) {
		return &adminctl.Error{Code: exitError, Message: "there is no " + audit.PublicFile + " in " + dir, Hint: "name a copy of it that was kept elsewhere with --key", Err: err}
	}
	if err != nil {
		return err
	}
	if err := p.print(report, verifyText(report, f)); err != nil {
		return err
	}
	if !report.Whole {
		return exitCode(exitError)
	}
	return nil
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func (f verifyFlags) options() (opts audit.VerifyOptions, err error) {
	if f.key != "" {
		if opts.Keys, err = audit.ReadKeys(f.key); err != nil {
			return opts, err
		}
	}
	for _, path := range f.checkpoints {
		c, err := audit.ReadCheckpoint(path)
		if err != nil {
			return opts, err
		}
		opts.Checkpoints = append(opts.Checkpoints, c)
	}
	return opts, nil
}

// maxKnownLogs is how many logs' checkpoints are read from the database.
const maxKnownLogs = 10_000

func (p *program) databaseCheckpoints(ctx context.Context) ([]audit.Checkpoint, error) {
	cfg, err := p.load(nil)
	if err != nil {
		return nil, err
	}
	db, id, err := server.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	known, err := db.Checkpoints(ctx, id, maxKnownLogs)
	if err != nil {
		return nil, err
	}
	var list []audit.Checkpoint
	for _, k := range known {
		c, err := audit.UnverifiedCheckpoint(k.Note)
		if err != nil {
			return nil, fmt.Errorf("checkpoint of log %s in the database: %w", k.Log, err)
		}
		list = append(list, c)
	}
	return list, nil
}

func verifyText(r audit.Report, f verifyFlags) string {
	var b strings.Builder
	for _, fault := range r.Faults {
		fmt.Fprintf(&b, "FAULT %s\n", fault)
	}
	for _, l := range r.Logs {
		fmt.Fprintf(&b, "log %s: %s, records %d to %d, signed to %d\n", l.Log, l.State, l.First, l.Last, l.Signed)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	for _, c := range r.Checkpoints {
		fmt.Fprintf(&b, "checkpoint of %d records of log %s: %s\n", c.Size, c.Log, c.Result)
	}
	if !r.Whole {
		fmt.Fprintf(&b, "NOT WHOLE: %s\n", r.Faults[0])
		return b.String()
	}
	fmt.Fprintf(&b, "whole: %d records in %d logs, keys from %s\n", r.Records, len(r.Logs), keysFrom(r, f))
	if len(f.checkpoints) == 0 && !f.database {
		b.WriteString("not shown: whether this is an old copy, or its end was cut. That takes --checkpoint or --database\n")
	}
	if f.key == "" {
		b.WriteString("not shown: whether all of it was written anew with another key. That takes --key\n")
	}
	return b.String()
}

// keysFrom says whose keys the verification believed.
func keysFrom(r audit.Report, f verifyFlags) string {
	if f.key != "" {
		return f.key
	}
	return r.Keys
}

// progress tells on standard error how far a long run is, every few seconds.
func (p *program) progress(what string) func(done, total int64) {
	const pause = 3 * time.Second
	last := time.Now()
	return func(done, total int64) {
		if now := time.Now(); total > 0 && done < total && now.Sub(last) >= pause {
			last = now
			fmt.Fprintf(p.err, "%s %d of %d MiB (%d %%)\n", what, done>>20, total>>20, done*100/total)
		}
	}
}

type exportFlags struct {
	dir    string
	format string
	from   string
	since  string
	follow bool
}

func (p *program) auditExportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use: "export", Short: "Write audit records to standard output", Args: cobra.NoArgs,
		Long: `Write the records of the audit log to standard output, as they stand in the log (one
line of JSON each) or as syslog messages (RFC 5424, one a line). At the end the
position is told on standard error; --from goes on there.

For a steady export use audit.export in the configuration: it keeps its position.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			return p.auditExport(ctx, f)
		},
	}
	cmd.Flags().StringVar(&f.dir, "dir", "", "the folder of the log (default from the configuration)")
	cmd.Flags().StringVar(&f.format, "format", "json", "json or syslog")
	cmd.Flags().StringVar(&f.from, "from", "", "the position to go on from")
	cmd.Flags().StringVar(&f.since, "since", "", "only records of this time (RFC 3339) or of the last 2h, 30d")
	cmd.Flags().BoolVar(&f.follow, "follow", false, "wait for more records")
	cmd.MarkFlagsMutuallyExclusive("from", "since")
	return cmd
}

func (p *program) auditExport(ctx context.Context, f exportFlags) error {
	write, err := p.recordWriter(f.format)
	if err != nil {
		return p.misused(err)
	}
	from, err := audit.ParsePosition(f.from)
	if err != nil {
		return p.misused(fmt.Errorf("--from: %w", err))
	}
	since, err := parseSince(f.since, time.Now())
	if err != nil {
		return p.misused(fmt.Errorf("--since: %w", err))
	}
	dir, err := p.auditDir(f.dir)
	if err != nil {
		return err
	}
	in := audit.NewReader(dir, from)
	defer in.Close()
	next := in.TryNext
	if f.follow {
		next = func() (audit.Entry, error) { return in.Next(ctx) }
	}
	for ctx.Err() == nil {
		e, err := next()
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if e.Gap {
			fmt.Fprintf(p.err, "culvert-gateway: records before %s were removed by retention\n", e.Position)
		}
		if e.Time.Before(since) {
			continue
		}
		if err := write(&e); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.err, "position %s\n", in.Position())
	return nil
}

// misused is an error in how a command was called.
func (p *program) misused(err error) error {
	p.complain(err)
	return exitCode(exitUsage)
}

// recordWriter returns what writes an entry in a format.
func (p *program) recordWriter(format string) (func(*audit.Entry) error, error) {
	var buf []byte
	syslog := audit.NewSyslog()
	switch format {
	case "json":
	case "syslog":
	default:
		return nil, fmt.Errorf("--format is %q, and can be json or syslog", format)
	}
	return func(e *audit.Entry) error {
		if buf = buf[:0]; format == "syslog" {
			buf = syslog.Append(buf, e)
		} else {
			buf = append(buf, e.Line...)
		}
		_, err := p.out.Write(append(buf, '\n'))
		return err
	}, nil
}

// parseSince reads a time, or how long ago.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%q is neither a time (2026-12-24T10:00:00Z) nor a length (2h, 30d)", s)
	}
	return now.Add(-d), nil
}

func (p *program) auditReindexCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reindex", Short: "Make the database's index of this gateway's audit log anew, from its files", Args: cobra.NoArgs,
		Long: `Empty the index of this gateway's audit log in the database and fill it again from the
files, which are the record. The gateway may run: its own indexing waits meanwhile, and
goes on from there.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			return p.auditReindex(ctx)
		},
	}
}

func (p *program) auditReindex(ctx context.Context) error {
	cfg, err := p.load(nil)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(p.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	db, id, err := server.OpenStore(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer db.Close()
	x, err := audit.NewIndexer(audit.IndexerConfig{Dir: server.AuditDir(cfg), Gateway: string(id), Sink: server.AuditIndex(db), Logger: log})
	if err != nil {
		return err
	}
	began := time.Now()
	err = x.Rebuild(ctx, func(ctx context.Context) error { return db.DropIndex(ctx, id) }, p.progress("indexed"))
	if err != nil {
		return err
	}
	n := x.Status().Sent
	return p.print(map[string]any{"ok": true, "gateway": id, "records": n}, fmt.Sprintf("%d records of gateway %s are indexed, in %s\n", n, id, time.Since(began).Round(time.Millisecond)))
}
