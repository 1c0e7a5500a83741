package client

import "time"

// How time is watched. Timers and the monotonic clock stop while a computer
// sleeps, so nothing here relies on one long timer: the loops wake often and
// look at the wall clock.
const (
	// tick is how often a connected client looks for a jump of the clock.
	tick = 2 * time.Second
	// jump is how much the wall clock may run away from the monotonic clock
	// within a tick before it counts as sleep.
	jump = 5 * time.Second
	// recheck is the longest that the renewal sleeps without a look at the clock.
	recheck = 30 * time.Second
	// skewWarn is the difference to the gateway's clock that is named. Below
	// it, the backdating of certificates (60 s) hides it.
	skewWarn = 60 * time.Second
)

// jumpDetector compares the wall clock with the monotonic one.
type jumpDetector struct {
	wall func() time.Time
	last time.Time // monotonic
	seen time.Time // wall
}

func newJumpDetector(wall func() time.Time) *jumpDetector {
	return &jumpDetector{wall: wall, last: time.Now(), seen: wall().Round(0)}
}

// jumped returns by how much the wall clock ran away since the last call; zero
// when it is less than jump.
func (j *jumpDetector) jumped() time.Duration {
	now, seen := time.Now(), j.wall().Round(0) // Round(0) drops the monotonic reading
	away := seen.Sub(j.seen) - now.Sub(j.last)
	j.last, j.seen = now, seen
	if away.Abs() < jump {
		return 0
	}
	return away
}

// renewAt is when a certificate is due: at two thirds of its life, spread over
// a tenth of it, so that desktops that logged in together do not renew together.
// draw is uniform in [0,1).
func renewAt(notBefore, notAfter time.Time, draw float64) time.Time {
	life := notAfter.Sub(notBefore)
	if life <= 0 {
		return notBefore
	}
	return notBefore.Add(life*2/3 - life/20 + time.Duration(draw*float64(life/10)))
}
