package dialer

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// watchLookups is how many look-ups of a Watch run at once.
const watchLookups = 8

// Watch looks up the names that hosts returns, at once, then every so often and whenever now says that there are
// others (nil: never), until ctx ends, so that Config.Resolved knows their addresses before anybody dials them. Without it, a service's address that
// nobody has dialed by name yet could be reached as part of a network whose rule is wider. Names that do
// not resolve are tried again with the next round.
func (d *Dialer) Watch(ctx context.Context, every time.Duration, now <-chan struct{}, hosts func() []string) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		d.lookUpAll(ctx, hosts())
		select {
		case <-ticker.C:
		case <-now:
		case <-ctx.Done():
			return
		}
	}
}

func (d *Dialer) lookUpAll(ctx context.Context, hosts []string) {
	var group errgroup.Group
	group.SetLimit(watchLookups)
	for _, host := range hosts {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if _, err := d.Resolve(ctx, host); err != nil {
				d.cfg.Logger.Debug("a service's name does not resolve", "host", host, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait()
}
