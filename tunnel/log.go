package tunnel

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// limitedLog writes to slog, few lines: a peer must not fill the log. It is the logger that yamux is given, whose lines tell of a
// peer's odd frames and of connections that end, and therefore are for debugging only.
type limitedLog struct {
	log     *slog.Logger
	limit   *rate.Limiter
	dropped atomic.Int64
}

func newLimitedLog(log *slog.Logger) *limitedLog {
	return &limitedLog{log: log, limit: rate.NewLimiter(1, 10)}
}

func (l *limitedLog) allow() bool {
	if l.limit.Allow() {
		return true
	}
	l.dropped.Add(1)
	return false
}

func (l *limitedLog) debug(msg string, args ...any) {
	if l.allow() {
		l.log.Debug(msg, append(args, "dropped", l.dropped.Swap(0))...)
	}
}

func (l *limitedLog) warn(msg string, args ...any) {
	if l.allow() {
		l.log.Warn(msg, append(args, "dropped", l.dropped.Swap(0))...)
	}
}

// note logs the end of a session, once: a lost connection is ordinary, a broken protocol is not.
func (l *limitedLog) note(err error) {
	switch {
	case errors.Is(err, ErrProtocol):
		l.log.Warn("tunnel session ended", "error", err)
	case errors.Is(err, ErrClosed), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		l.log.Debug("tunnel session ended", "error", err)
	default:
		l.log.Info("tunnel session ended", "error", err)
	}
}

// Print, Printf and Println implement yamux's logger.
func (l *limitedLog) Print(v ...any) {
	if l.allow() {
		l.yamux(fmt.Sprint(v...))
	}
}

// Printf implements yamux's logger.
func (l *limitedLog) Printf(format string, v ...any) {
	if l.allow() {
		l.yamux(fmt.Sprintf(format, v...))
	}
}

// Println implements yamux's logger.
func (l *limitedLog) Println(v ...any) { l.Print(v...) }

func (l *limitedLog) yamux(line string) {
	line = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "[ERR] "), "[WARN] ")
	l.log.Debug(line, "dropped", l.dropped.Swap(0))
}
