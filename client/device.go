package client

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"time"

	"github.com/culvert-vpn/culvert/client/posture"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	// deviceEvery is how often the device is read by itself.
	deviceEvery = 5 * time.Minute
	// deviceSoon is how soon it is read again at most: when a fact may have changed, or could not be read.
	deviceSoon = 10 * time.Second
	// settleWait is how long the first streams of a connection wait until the gateway knows of the device what this client could
	// read: as long as a reading takes, and a round trip.
	settleWait = posture.Limit + 500*time.Millisecond
)

// device is what the gateways are told of this device. Nothing of it is proven.
type device struct {
	facts map[string]string // never changed, only replaced
	whole bool              // it was read; before, it is what this process knows of itself
	gaps  bool              // facts stand in it that the last reading did not have
}

// readDevice is what Config.Posture is by default.
func (cfg Config) readDevice(ctx context.Context) map[string]string {
	return posture.Read(ctx, posture.Program{
		Version:     cfg.Version,
		HardwareKey: posture.No, // client/certstore keeps keys in files, sealed or not
	})
}

// atOnce is what is known of the device before it was read.
func (cfg Config) atOnce() device {
	return device{facts: map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH, "client_version": wire.CleanText(cfg.Version)}}
}

// keepDeviceTold reads the device, now, every deviceEvery and when something may have changed, and tells the gateways of it. Connecting
// never waits for it.
func (c *Client) keepDeviceTold(ctx context.Context) {
	var read, next time.Time // monotonic
	due := time.NewTimer(0)
	defer due.Stop()
	plan := func(at time.Time) {
		next = at
		due.Reset(time.Until(at))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.newcomers:
		case <-c.looks:
			if soon := read.Add(deviceSoon); soon.Before(next) {
				plan(soon)
			}
		case <-due.C:
			facts := c.cfg.Posture(ctx)
			if ctx.Err() != nil {
				return // that reading was cut short
			}
			read = time.Now()
			plan(read.Add(c.learn(facts)))
		}
		c.tellDevice()
	}
}

// learn takes a reading and returns when the next one is due. A fact that is missing may have been read too slowly, on a machine that is
// busy or just woke up, and a gateway cuts streams for it: it is believed the second time.
func (c *Client) learn(facts map[string]string) (again time.Duration) {
	again = deviceEvery
	c.update(func() {
		was := c.device
		is := device{facts: facts, whole: true}
		for key := range was.facts {
			if _, ok := facts[key]; !ok && was.whole && !was.gaps {
				is.gaps, again = true, deviceSoon
			}
		}
		if is.gaps {
			is.facts = maps.Clone(was.facts)
			maps.Copy(is.facts, facts)
		}
		c.device = is
	})
	return again
}

// tellDevice tells every gateway that heard something else, those too where only old streams are left.
func (c *Client) tellDevice() {
	c.mu.Lock()
	is := c.device
	lanes := append([]*lane(nil), c.retired...)
	if c.lane != nil {
		lanes = append(lanes, c.lane)
	}
	c.mu.Unlock()
	for _, l := range lanes {
		l.tell(is)
	}
}

// device implements events: what Hello says.
func (l *lane) device() map[string]string {
	l.client.mu.Lock()
	is := l.client.device
	l.client.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = is.facts
	if is.whole {
		l.settleLocked()
	}
	return is.facts
}

// tell sends what the gateway has not heard yet.
func (l *lane) tell(is device) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if maps.Equal(l.told, is.facts) {
		if is.whole && !l.asked {
			l.settleLocked()
		}
		return
	}
	l.told, l.asked = is.facts, is.whole
	if err := l.session.SendPosture(is.facts); err != nil { // it only queues; the session ends, or a fact is none
		l.client.log.Debug("the gateway could not be told of this device", "error", err)
	}
}

// settleLocked lets the streams go that wait for the gateway to know this device.
func (l *lane) settleLocked() {
	if !l.calm {
		l.calm = true
		close(l.settled)
	}
}

// settle waits until a gateway has taken what it was told of the device, so that a stream is not refused for what it is about to hear.
// The gateway sends its services again when it has.
func (l *lane) settle(ctx context.Context) {
	l.mu.Lock()
	calm, until := l.calm, l.settleBy
	l.mu.Unlock()
	if calm {
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-l.settled:
	case <-timer.C:
	case <-l.session.Done():
	case <-ctx.Done():
	}
}

// deniedHere has the device read again when a stream was denied: somebody may be about to set right what was missing.
func (c *Client) deniedHere(err error) {
	var refusal *wire.Refusal
	if errors.As(err, &refusal) && refusal.Code == wire.CodeDenied {
		poke(c.looks)
	}
}
