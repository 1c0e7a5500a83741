package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	// pingEvery is how often a lane measures its round trip.
	pingEvery = 15 * time.Second
	// probeTimeout is how long a gateway may take to answer after a sleep.
	probeTimeout = 3 * time.Second
	// flushTime is more than a slow line needs for what may be on its way.
	flushTime = time.Minute
	// retireLook is how often a retired lane is looked at for open streams.
	retireLook = 250 * time.Millisecond
	// servicesWait bounds the wait for the first list of services, which
	// follows Welcome at once.
	servicesWait = 2 * time.Second
)

// lane is one session, from its connection until nothing of it is left.
type lane struct {
	client   *Client
	session  session
	begun    time.Time          // monotonic
	draining chan wire.Draining // gets one value when the gateway drains
	listed   chan struct{}      // closed when services came
	settled  chan struct{}      // closed when the gateway knows the device as it was read

	mu       sync.Mutex
	login    *Login      // whose certificate the gateway knows
	unwanted auth.Serial // a certificate that the gateway did not take
	services []wire.Service
	gotList  bool
	rtt      time.Duration
	told     map[string]string // what the gateway heard of the device
	asked    bool              // it was told after Hello; the next services are decided by that
	calm     bool              // settled is closed
	settleBy time.Time         // when nothing waits for settled any more; monotonic
}

func newLane(c *Client, login *Login) *lane {
	return &lane{client: c, login: login, begun: time.Now(), draining: make(chan wire.Draining, 1),
		listed: make(chan struct{}), settled: make(chan struct{})}
}

// onServices implements events.
func (l *lane) onServices(s wire.Services) {
	l.mu.Lock()
	services, refused := withoutOverreach(s.Services, l.login.ownHosts())
	l.services = services
	if !l.gotList {
		l.gotList = true
		close(l.listed)
	}
	if l.asked {
		l.settleLocked()
	}
	l.mu.Unlock()
	if len(refused) > 0 {
		l.client.log.Warn("the gateway announces what it must not draw to itself; programs are not led there", "refused", refused)
	}
	l.client.update(func() {
		if l.client.lane == l {
			l.client.services = services
		}
	})
}

// onDraining implements events.
func (l *lane) onDraining(d wire.Draining) { l.drain(d) }

func (l *lane) drain(d wire.Draining) {
	select {
	case l.draining <- d:
	default: // known already
	}
}

// awaitServices returns when the first list came, or when it takes too long.
func (l *lane) awaitServices(ctx context.Context) {
	timer := time.NewTimer(servicesWait)
	defer timer.Stop()
	select {
	case <-l.listed:
	case <-l.session.Done():
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (l *lane) serial() auth.Serial {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.login.Serial()
}

func (l *lane) identity() auth.Identity {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.login.Identity
}

// ping measures a round trip and remembers it.
func (l *lane) ping(ctx context.Context) (time.Duration, error) {
	rtt, err := l.session.Ping(ctx)
	if err != nil {
		return 0, fmt.Errorf("ping the gateway: %w", err)
	}
	l.mu.Lock()
	l.rtt = rtt
	l.mu.Unlock()
	return rtt, nil
}

// measure keeps the round trip fresh until the session ends.
func (l *lane) measure(ctx context.Context) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, pingEvery)
		_, _ = l.ping(limited) // liveness is the tunnel's task; this is the figure only
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-l.session.Done():
			return
		case <-ticker.C:
		}
	}
}

// present shows the gateway a renewed certificate, unless it knows it already.
func (l *lane) present(ctx context.Context, login *Login) error {
	if !l.wants(login) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	_, err := l.session.Renew(ctx, login.Certificate.Certificate)
	var refusal *wire.Refusal
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.As(err, &refusal):
		l.unwanted = login.Serial()
		return fmt.Errorf("the gateway did not take the renewed certificate: %w", err)
	case err != nil:
		return fmt.Errorf("present the renewed certificate: %w", err)
	}
	l.login = login
	return nil
}

// wants reports whether the lane's gateway should see the certificate.
func (l *lane) wants(login *Login) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	serial := login.Serial()
	return l.login.Session() == login.Session() && l.login.Serial() != serial && l.unwanted != serial
}

// linger keeps a retired lane until its last stream has ended.
func (l *lane) linger(ctx context.Context) {
	ticker := time.NewTicker(retireLook)
	defer ticker.Stop()
	for l.session.Counters().streams > 0 {
		select {
		case <-ctx.Done():
		case <-l.session.Done():
		case <-ticker.C:
			continue
		}
		break
	}
	flush, cancel := context.WithTimeout(ctx, flushTime)
	_, _ = l.ping(flush) // what the last streams wrote has reached the gateway then
	cancel()
	l.session.Close(wire.Termination{Code: wire.TerminateShutdown, Reason: "the client moved to another connection"})
}

// gateway describes the other end.
func (l *lane) gateway() status.Gateway {
	l.mu.Lock()
	defer l.mu.Unlock()
	return status.Gateway{ID: l.session.Welcome().Gateway, RTT: l.rtt, TLS: describeTLS(l.session.TLS())}
}
