package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Headline returns the status as one line without a line end, for example
// "reconnecting since 10:32:11 (connection refused)".
func (s Status) Headline() string {
	switch s.State {
	case NotLoggedIn:
		return "not logged in: run `" + s.LoginCommand() + "`"
	case Stopped:
		return "not running: run `culvert up`"
	case Connecting:
		return "connecting to " + s.Gateway.Address + parenthesised(s.Reason)
	case Connected:
		return "connected to " + s.Gateway.Address
	case Reconnecting:
		return "reconnecting since " + clock(s.Since) + parenthesised(s.Reason)
	case Expired:
		return "expired: run `culvert login`" + parenthesised(s.Reason)
	case Locked, Terminated:
		return string(s.State) + ": " + orUnknown(s.Reason) + s.reference()
	default:
		return string(s.State) + parenthesised(s.Reason)
	}
}

// LoginCommand is what logs in again: the URL is known after the first time.
func (s Status) LoginCommand() string {
	if s.Gateway.URL == "" {
		return "culvert login URL"
	}
	return "culvert login"
}

func (s Status) reference() string {
	if s.Reference == "" {
		return ""
	}
	return " (reference " + s.Reference + ")"
}

func parenthesised(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func orUnknown(s string) string {
	if s == "" {
		return "the gateway gave no reason"
	}
	return s
}

// Write prints the whole snapshot for people; now makes times relative.
func (s Status) Write(w io.Writer, now time.Time) error {
	if _, err := fmt.Fprintln(w, s.Headline()); err != nil {
		return err
	}
	if s.Remedy != "" {
		fmt.Fprintf(w, "  hint: %s\n", s.Remedy)
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range s.rows(now) {
		if row[1] != "" {
			fmt.Fprintf(table, "  %s\t%s\n", row[0], row[1])
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return s.writeWarnings(w)
}

func (s Status) writeWarnings(w io.Writer) error {
	for _, warning := range s.Warnings {
		if _, err := fmt.Fprintf(w, "warning: %s\n", warning.Text); err != nil {
			return err
		}
		if warning.Remedy != "" {
			fmt.Fprintf(w, "  hint: %s\n", warning.Remedy)
		}
	}
	return nil
}

func (s Status) rows(now time.Time) [][2]string {
	rows := [][2]string{
		{"profile", s.Profile},
		{"gateway", s.Gateway.URL},
		{"gateway id", s.Gateway.ID},
		{"proxy", s.Gateway.Proxy},
		{"round trip", duration(s.Gateway.RTT)},
		{"tls", s.Gateway.TLS},
		{"user", s.User.String()},
		{"groups", strings.Join(s.User.Groups, ", ")},
		{"certificate", until(s.Session.NotAfter, now)},
		{"session", until(s.Session.Deadline, now)},
		{"device", s.Device.String()},
		{"traffic", s.Traffic.text()},
	}
	for _, offer := range s.Offers {
		rows = append(rows, [2]string{offer.Kind, offer.text()})
	}
	return rows
}

func (o Offer) text() string {
	if o.Service == "" {
		return o.Address
	}
	return o.Address + " → " + o.Service
}

func (t Traffic) text() string {
	if t.Opened == 0 && t.Streams == 0 {
		return ""
	}
	text := fmt.Sprintf("%s, %s sent, %s received", plural(t.Streams, "open stream"), Bytes(t.Sent), Bytes(t.Received))
	if t.Draining > 0 {
		text += fmt.Sprintf(" (%d on a gateway that stops)", t.Draining)
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Bytes prints a count with a binary unit: "1.5 MiB".
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// Span prints a duration as people say it, in its two largest units at most:
// "9 min", "2 h 5 min", "45 s".
func Span(d time.Duration) string {
	d = d.Abs()
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		if minutes := int(d.Minutes()) % 60; minutes != 0 {
			return fmt.Sprintf("%d h %d min", int(d.Hours()), minutes)
		}
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

func duration(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return d.Round(10 * time.Microsecond).String()
}

func until(t, now time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case !t.After(now):
		return "expired " + Span(now.Sub(t)) + " ago"
	default:
		return "until " + t.Local().Format("2006-01-02 15:04:05") + " (" + Span(t.Sub(now)) + ")"
	}
}

func clock(t time.Time) string { return t.Local().Format("15:04:05") }
