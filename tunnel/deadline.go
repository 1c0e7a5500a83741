package tunnel

import (
	"sync"
	"time"
)

// deadline is a point in time that can be moved while somebody waits for it, as in net.Pipe. Its zero value is never reached.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	cancel chan struct{} // closed when the deadline has passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.cancel // the timer's function has run or is running
	}
	d.timer = nil
	passed := d.cancel != nil && isClosed(d.cancel)
	if t.IsZero() {
		if passed {
			d.cancel = nil
		}
		return
	}
	if d.cancel == nil || passed {
		d.cancel = make(chan struct{})
	}
	cancel := d.cancel
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(cancel) })
		return
	}
	close(cancel)
}

// wait returns a channel that is closed when the deadline passes.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel == nil {
		d.cancel = make(chan struct{})
	}
	return d.cancel
}

func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel != nil && isClosed(d.cancel)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
