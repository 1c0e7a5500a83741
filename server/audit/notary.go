package audit

import (
	"fmt"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// A notary puts checkpoints where they are looked for: the file beside the log, and whoever keeps them outside. Both may be
// slow, so it has a goroutine of its own while there is something to do, and knows only the newest.
type notary struct {
	cfg    *Config
	closed chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex
	next  *Checkpoint // to be told
	busy  bool        // a goroutine tells
	ended bool        // post does nothing
}

// notaryPause is between two checkpoints that are told.
const notaryPause = time.Second

func (n *notary) init(cfg *Config) { n.cfg, n.closed = cfg, make(chan struct{}) }

// post has a checkpoint told soon, unless a newer one comes first.
func (n *notary) post(c Checkpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return
	}
	n.next = &c
	if !n.busy {
		n.busy = true
		n.wg.Go(n.work)
	}
}

func (n *notary) work() {
	for {
		n.mu.Lock()
		c := n.next
		n.next = nil
		n.busy = c != nil
		n.mu.Unlock()
		if c == nil {
			return
		}
		if err := n.tell(*c); err != nil {
			n.cfg.Logger.Warn("the newest checkpoint of the audit log is not beside it", "error", err)
		}
		select {
		case <-n.closed:
		case <-time.After(notaryPause):
		}
	}
}

// tell puts a checkpoint beside the log and hands it on.
func (n *notary) tell(c Checkpoint) error {
	err := durable.WriteFile(checkpointPath(n.cfg.Dir, c.Log), []byte(c.Note), 0o600)
	if n.cfg.OnCheckpoint != nil {
		n.cfg.OnCheckpoint(c)
	}
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// stop waits until nothing is told any more.
func (n *notary) stop() {
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	close(n.closed)
	n.wg.Wait()
}
