package adminctl

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// decimal is a number of three significant digits at most.
func decimal(f float64) string {
	if f >= 10 {
		return strconv.FormatFloat(math.Round(f), 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'f', 1, 64)
}

// span is a length of time in its two largest units: "2h 5m", "30d", "12s".
func span(d time.Duration) string {
	if d < 0 {
		return "-" + span(-d)
	}
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	units := []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.size {
			continue
		}
		text := fmt.Sprintf("%d%s", d/u.size, u.name)
		if i+1 < len(units) && i < 3 {
			if rest := d % u.size / units[i+1].size; rest > 0 && d < 10*24*time.Hour {
				text += fmt.Sprintf(" %d%s", rest, units[i+1].name)
			}
		}
		return text
	}
	return d.String()
}

// briefly is span in its largest unit alone.
func briefly(d time.Duration) string {
	text, _, _ := strings.Cut(span(d), " ")
	return text
}

// A calendar writes times for people, relative to one moment and in its zone.
type calendar struct{ now time.Time }

// relative is "in 5m", "3d ago", "now".
func (c calendar) relative(t time.Time) string {
	switch d := t.Sub(c.now); {
	case d > -time.Second && d < time.Second:
		return "now"
	case d < 0:
		return briefly(-d) + " ago"
	default:
		// What was said a moment ago stays what it is: two hours are not "in 1h" a second later.
		return "in " + briefly(d+d/50)
	}
}

// absolute leaves the date out for today, and the year for this year.
func (c calendar) absolute(t time.Time) string {
	t = t.In(c.now.Location())
	switch {
	case t.Year() == c.now.Year() && t.YearDay() == c.now.YearDay():
		return t.Format("15:04:05")
	default:
		return t.Format("2006-01-02 15:04")
	}
}

// short is for cells of tables: "14:03:05 (2m ago)". The zero time is nothing.
func (c calendar) short(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return c.absolute(t) + " (" + c.relative(t) + ")"
}

// brief is short without seconds, for tables that are full.
func (c calendar) brief(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	layout := "15:04"
	if local := t.In(c.now.Location()); local.YearDay() != c.now.YearDay() || local.Year() != c.now.Year() {
		layout = "2 Jan 15:04"
	}
	return t.In(c.now.Location()).Format(layout) + " (" + c.relative(t) + ")"
}

// full is for sheets and sentences: it has the date, the seconds and the zone.
func (c calendar) full(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.In(c.now.Location()).Format("2006-01-02 15:04:05 MST") + " (" + c.relative(t) + ")"
}

// zoned is a table's heading that says which zone its times are in.
func (c calendar) zoned(name string) string { return name + " (" + c.now.Format("MST") + ")" }

// ParseDuration reads a length of time as people write it: Go's units, and days and weeks ("30d", "1w", "1d12h").
func ParseDuration(s string) (time.Duration, error) {
	total := time.Duration(0)
	rest := s
	for _, unit := range []struct {
		letter string
		size   time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		digits, after, found := strings.Cut(rest, unit.letter)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil {
			return 0, badDuration(s)
		}
		total += time.Duration(n) * unit.size
		rest = after
	}
	if rest == "" && s != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || total > math.MaxInt64-d {
		return 0, badDuration(s)
	}
	return total + d, nil
}

func badDuration(s string) error {
	return fmt.Errorf("%q is not a length of time; write 90m, 2h or 30d", s)
}

// layouts are the ways to write a moment, in the reader's own zone where none is said.
var layouts = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"}

// parseMoment reads a moment: a time, a time of today, or a length of time before now.
func (c calendar) parseMoment(s string) (time.Time, error) {
	if s == "now" {
		return c.now, nil
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, s, c.now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			y, m, d := c.now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, c.now.Location()), nil
		}
	}
	if ahead, ok := strings.CutPrefix(s, "in "); ok {
		if d, err := ParseDuration(ahead); err == nil {
			return c.now.Add(d), nil
		}
	}
	if d, err := ParseDuration(strings.TrimSuffix(s, " ago")); err == nil {
		return c.now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 30d for thirty days ago, 2026-12-24, \"2026-12-24 10:00\" or 2026-12-24T10:00:00Z", s)
}
