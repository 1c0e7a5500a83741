// Package preview answers what a new policy would have meant in the past: the streams of the audit record are decided
// again, each at its own time and with what was known of the person then, and those whose answer changes are counted
// by person and service.
//
// It reads through a small [Source] in pages, keeps one line per distinct change up to a bound, and so needs the same
// memory for a thousand streams as for ten million. It changes nothing and decides nothing about streams that are open.
//
// What it cannot know: what a name would have resolved to, whether a device would have answered a question that
// nobody asked, and what people who were refused would have opened next. A stream of which no facts of the person
// were recorded is counted and not decided.
package preview

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// Bounds.
const (
	// DefaultMaxChanges is how many distinct changes are kept unless Config says otherwise.
	DefaultMaxChanges = 10_000
	// PageSize is how many streams are asked of the Source at a time; two pages are in memory, and a stream whose person
	// is in very many groups has some 20 KiB.
	PageSize = 2_000
	// progressEvery is how often Progress is called.
	progressEvery = 100 * time.Millisecond
)

// A Source is the audit record's index; a [store.Store] is one.
type Source interface {
	// StreamsSince returns up to limit streams of that time or later whose ID is greater than after, by ascending ID.
	// Fewer than limit means that there are no more. The slice is the caller's.
	StreamsSince(ctx context.Context, since time.Time, after int64, limit int) ([]store.AuditStream, error)
	// CountStreams says about how many there are, for the progress.
	CountStreams(ctx context.Context, since time.Time) (int64, error)
}

// Config says what to preview.
type Config struct {
	// New is the policy to try. Required.
	New *policy.Set
	// Old is the policy in force. With it, a change is what New answers otherwise than Old; without it, what New answers
	// otherwise than was recorded, which may also be the doing of an earlier policy. Optional.
	Old *policy.Set
	// Source is the record. Required.
	Source Source
	// Since is how far back to look; zero is all that there is.
	Since time.Time
	// Progress is called after the first page, then some ten times a second, and at the end with equal numbers. Optional.
	Progress func(done, total int64)
	// MaxChanges bounds the distinct changes that are kept; 0 is DefaultMaxChanges. Further ones are counted in
	// Result.Omitted and Result.Transitions.
	MaxChanges int
}

// Outcome is the answer for a stream.
type Outcome string

// The outcomes of a stream.
const (
	Allowed Outcome = "allowed"
	Failed  Outcome = "failed" // recorded only: it was allowed, and the service was not reached
	StepUp  Outcome = "step_up_required"
	Denied  Outcome = "denied"
)

// A Result is what a preview found. A denial that was recorded once for many repetitions counts as many streams.
type Result struct {
	Old   string    `json:"old,omitempty"` // versions
	New   string    `json:"new"`
	Since time.Time `json:"since,omitzero"`

	Streams     int64 `json:"streams"`     // in the record; the sum of the next four and Changed
	Unchanged   int64 `json:"unchanged"`   // the answer stays
	Drifted     int64 `json:"drifted"`     // Old and New agree, and the record says otherwise: not the new policy's doing
	Undecidable int64 `json:"undecidable"` // nothing was recorded of the person, or the target cannot be read
	NotByPolicy int64 `json:"not_by_policy"`

	Changed     int64        `json:"changed"`
	Transitions []Transition `json:"transitions"`       // all changes, by what became what
	Changes     []Change     `json:"changes"`           // the most frequent first
	Omitted     *Omitted     `json:"omitted,omitempty"` // what Changes leaves out; nil: nothing
}

// A Transition counts the streams that one answer becomes another for.
type Transition struct {
	Was     Outcome `json:"was"`
	Becomes Outcome `json:"becomes"`
	Count   int64   `json:"count"`
}

// A Change is what happens to one person's streams to one service.
type Change struct {
	User    auth.UserID `json:"user"`
	Name    string      `json:"name,omitempty"`
	Email   string      `json:"email,omitempty"`
	Service string      `json:"service"` // or the target, where it is no service
	Was     Outcome     `json:"was"`
	Becomes Outcome     `json:"becomes"`
	Rule    string      `json:"rule,omitempty"`   // of the new policy, that decides
	Reason  string      `json:"reason,omitempty"` // of the latest one
	Count   int64       `json:"count"`
	First   time.Time   `json:"first"`
	Last    time.Time   `json:"last"`
}

// Omitted counts the streams whose change was one too many to keep by person and service.
type Omitted struct {
	Streams int64     `json:"streams"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// Run decides the record again. An error of the Source ends it, as does the end of ctx; the result is then what was
// found until there.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.New == nil || cfg.Source == nil {
		return Result{}, errors.New("preview a policy: Config.New and Config.Source are required")
	}
	r := newRun(cfg)
	total, err := cfg.Source.CountStreams(ctx, cfg.Since)
	if err != nil {
		return Result{}, fmt.Errorf("count the streams of the record: %w", err)
	}
	err = r.pages(ctx, total)
	return r.result(), err
}
