package certstore

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

const (
	stepUpFile = "stepup.json"
	stepUpLock = "stepup.lock"
)

// Declined is a fresh login that somebody was asked for and that did not come.
type Declined struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason"`
	// Unanswered: nobody said no, but nobody signed in either.
	Unanswered bool `json:"unanswered,omitempty"`
}

// LockStepUp waits until no other process asks this profile's person for a fresh login, or until ctx ends. Who gets it looks first
// whether the login of [Profile.Load] is fresh by now, and whether [Profile.Declined] answers its own question too.
func (p *Profile) LockStepUp(ctx context.Context) (*durable.FileLock, error) {
	return p.lock(ctx, stepUpLock)
}

// Decline notes for other processes that there will be no fresh login. The caller holds [Profile.LockStepUp].
func (p *Profile) Decline(reason string, unanswered bool) error {
	return p.write(stepUpFile, Declined{Version: fileVersion, At: p.now(), Reason: reason, Unanswered: unanswered})
}

// Declined returns the last note of [Profile.Decline]; zero when there is none.
func (p *Profile) Declined() (Declined, error) {
	var d Declined
	err := p.read(stepUpFile, &d)
	if errors.Is(err, fs.ErrNotExist) {
		return Declined{}, nil
	}
	return d, err
}
