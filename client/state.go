package client

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
)

// endsSoon is when the end of a session is announced, so that nobody is
// surprised in the middle of work.
const endsSoon = 30 * time.Minute

// Status returns the snapshot of now.
func (c *Client) Status() status.Status {
	s, _, _ := c.snapshot()
	return s
}

// snapshot returns the status, how many attempts failed since the last
// connection, and what is closed at the next change.
func (c *Client) snapshot() (status.Status, int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := status.Status{
		State: c.state.state, Since: c.since, Reason: c.state.reason, Remedy: c.state.remedy, Reference: c.state.reference,
		Profile: c.profile, Offers: slices.Clone(c.offers), Process: c.process(), Traffic: c.trafficLocked(), Device: maps.Clone(c.device.facts),
	}
	if c.login != nil && s.State != status.NotLoggedIn {
		s.Gateway = c.gatewayLocked()
		s.User, s.Session = userOf(c.login), sessionOf(c.login)
	}
	s.Warnings = c.warningsLocked()
	return s, c.failures, c.changed
}

func (c *Client) gatewayLocked() status.Gateway {
	var g status.Gateway
	if c.lane != nil {
		g = c.lane.gateway()
	}
	g.URL, g.Address, g.Skew = c.login.URL, c.login.Tunnel, c.skew.Round(time.Millisecond)
	if c.via != nil {
		g.Proxy = c.via(c.login.Tunnel)
	}
	return g
}

func (c *Client) trafficLocked() status.Traffic {
	total, draining := c.past, counters{}
	for _, l := range c.retired {
		draining.add(l.session.Counters())
	}
	total.add(draining)
	if c.lane != nil {
		total.add(c.lane.session.Counters())
	}
	return status.Traffic{Streams: total.streams, Draining: draining.streams, Opened: total.opened,
		Sent: total.sent, Received: total.received}
}

// warningsLocked returns what was raised and what follows from the clocks.
func (c *Client) warningsLocked() []status.Warning {
	final := status.Status{State: c.state.state}.Final()
	var list []status.Warning
	if !final { // a final state says itself what they warned of
		list = slices.Clone(c.warnings)
	}
	if c.skew.Abs() >= skewWarn {
		list = append(list, skewWarning(c.skew))
	}
	list = append(list, c.leftBehindLocked()...)
	if c.login == nil || c.login.Deadline.IsZero() {
		return list
	}
	if c.login.NoRenewal != "" && !final {
		list = append(list, noRenewalWarning(c.login))
	}
	left := c.login.Deadline.Sub(c.cfg.Now().Add(c.skew))
	if left > 0 && left <= endsSoon && !final {
		list = append(list, status.Warning{Code: status.WarnSessionEnds,
			Text:   "the session ends in " + status.Span(left) + "; then its streams are cut",
			Remedy: "run `culvert login` now: new connections use the new session at once, what is open ends with the old one"})
	}
	return list
}

// leftBehindLocked warns of streams that were open at a new login: a stream stays on the session that it was opened in, and that one is
// not renewed any more.
func (c *Client) leftBehindLocked() []status.Warning {
	streams, end := 0, time.Time{}
	for _, l := range c.retired {
		login := l.current()
		if c.login == nil || login.Session() == c.login.Session() {
			continue
		}
		if n := l.session.Counters().streams; n > 0 {
			streams += n
			if end.IsZero() || login.Leaf.NotAfter.Before(end) {
				end = login.Leaf.NotAfter
			}
		}
	}
	if streams == 0 {
		return nil
	}
	return []status.Warning{{Code: status.WarnLeftBehind,
		Text: fmt.Sprintf("streams that were opened before the new login, %d of them, are cut at %s with the certificate of that login",
			streams, end.Local().Format("15:04")),
		Remedy: "open them anew before that: new ones use the new login"}}
}

func noRenewalWarning(l *Login) status.Warning {
	return status.Warning{Code: status.WarnNoRenewal,
		Text:   "the login ends with its certificate at " + l.Deadline.Local().Format("15:04") + " and is not renewed: " + l.NoRenewal,
		Remedy: "run `culvert login` before that; an administrator can have the provider give refresh tokens (scope " + offlineAccess + ")"}
}

func skewWarning(skew time.Duration) status.Warning {
	side := "slow"
	if skew < 0 {
		side = "fast"
	}
	return status.Warning{Code: status.WarnClockSkew,
		Text:   fmt.Sprintf("your clock is %s %s, compared with the gateway's", status.Span(skew), side),
		Remedy: "set this computer's clock, or switch automatic time on"}
}

// raise adds a warning, in place of an earlier one of the same code.
func (c *Client) raise(w *status.Warning) { c.update(func() { c.raiseLocked(w) }) }

func (c *Client) raiseLocked(w *status.Warning) {
	if w == nil {
		return
	}
	c.warnings = slices.DeleteFunc(c.warnings, func(o status.Warning) bool { return o.Code == w.Code })
	c.warnings = append(c.warnings, *w)
}

// fingerprint is equal for snapshots that look the same.
func fingerprint(s status.Status) string {
	data, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// describeTLS names version, key exchange and cipher suite.
func describeTLS(state tls.ConnectionState) string {
	if state.Version == 0 {
		return ""
	}
	return fmt.Sprintf("%s, %s, %s", tls.VersionName(state.Version), state.CurveID, tls.CipherSuiteName(state.CipherSuite))
}

// clockTime prints a moment, with its day when it is not today's.
func clockTime(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}
