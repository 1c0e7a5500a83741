package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// facility is "log audit" of RFC 5424, table 1.
const facility = 13

// Severities of RFC 5424, table 2.
const (
	severityError  = 3
	severityWarn   = 4
	severityNotice = 5
	severityInfo   = 6
)

func severity(e Event) int {
	switch e {
	case EventLogLost:
		return severityError
	case EventLogRecovered, EventAdminBreakGlass, EventAdminDenied, EventPolicyRefused, EventConfigRefused:
		return severityWarn
	case EventStreamDenied, EventSessionRefused, EventEnrollRefused, EventLockAdded, EventSessionEnded:
		return severityNotice
	}
	return severityInfo
}

// A Syslog formats entries as messages of RFC 5424.
type Syslog struct {
	Host string // "-": not told
	App  string
	PID  int
}

// NewSyslog returns the format with this machine's name.
func NewSyslog() Syslog {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return Syslog{Host: printable(host, 255), App: "culvert-gateway", PID: os.Getpid()}
}

// Append appends a message without a frame. Its text is the record's line.
func (s Syslog) Append(to []byte, e *Entry) []byte {
	at := "-"
	if !e.Time.IsZero() {
		at = e.Time.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	to = fmt.Appendf(to, "<%d>1 %s %s %s %d %s - ", facility*8+severity(e.Event), at, s.Host, s.App, s.PID, printable(string(e.Event), 32))
	return append(to, e.Line...)
}

// printable is a header field of RFC 5424, 6: visible ASCII, or "-".
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}

// maxDatagram is what a message over UDP or a Unix socket can have; the rest of a longer one is cut off.
const maxDatagram = 60_000

// A syslogOutlet sends messages to a syslog server.
type syslogOutlet struct {
	conn   net.Conn
	format Syslog
	w      *bufio.Writer // of a stream; nil for datagrams
	buf    []byte
	done   chan struct{} // the peer's side is watched until then
	stop   func() bool   // of the watch over the context
	mu     sync.Mutex
	gone   error
}

func dialSyslog(ctx context.Context, t Target) (outlet, error) {
	network, address, err := t.dial()
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: exportTimeout}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	o := &syslogOutlet{conn: conn, format: NewSyslog(), done: make(chan struct{})}
	o.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) }) // a write that hangs ends
	if network == "tcp" {
		o.w = bufio.NewWriterSize(conn, 64<<10)
		go o.watch()
	} else {
		close(o.done)
	}
	return o, nil
}

// errHungUp is what a peer that closes its connection leaves.
var errHungUp = errors.New("the syslog server closed the connection")

// watch notes when the peer closes: a write would succeed once more, into nothing.
func (o *syslogOutlet) watch() {
	defer close(o.done)
	_, err := io.Copy(io.Discard, o.conn)
	if err == nil {
		err = errHungUp
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = err
}

func (o *syslogOutlet) alive() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gone
}

func (o *syslogOutlet) send(e *Entry) error {
	o.buf = o.format.Append(o.buf[:0], e)
	if err := o.conn.SetWriteDeadline(time.Now().Add(exportTimeout)); err != nil {
		return err
	}
	if o.w == nil {
		_, err := o.conn.Write(cutText(o.buf, maxDatagram))
		return err
	}
	var length [24]byte
	if _, err := o.w.Write(append(strconv.AppendInt(length[:0], int64(len(o.buf)), 10), ' ')); err != nil {
		return err
	}
	_, err := o.w.Write(o.buf)
	return err
}

// cutText cuts text to at most n bytes, between two characters.
func cutText(text []byte, n int) []byte {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

func (o *syslogOutlet) flush() error {
	if o.w == nil {
		return nil
	}
	return o.w.Flush()
}

func (o *syslogOutlet) close() error {
	o.stop()
	err := o.conn.Close()
	<-o.done
	return err
}
