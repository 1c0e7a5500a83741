package localnet

import (
	"bytes"
	"io"
	"sync"
)

// flowQueue is how many datagrams wait for a flow that is still being opened;
// more are dropped, as a network would.
const flowQueue = 64

// Flows sorts the datagrams that arrive on one UDP socket into flows, by a key
// such as their source address. It is safe for concurrent use.
type Flows[K comparable] struct {
	max   int
	mu    sync.Mutex
	flows map[K]*Flow
}

// NewFlows returns an empty table for at most limit flows at once.
func NewFlows[K comparable](limit int) *Flows[K] {
	return &Flows[K]{max: limit, flows: make(map[K]*Flow)}
}

// Get returns the flow of key, made with write where there is none, or nil
// when there are too many. Who gets a new one serves it and calls Remove.
func (t *Flows[K]) Get(key K, write func([]byte) (int, error)) (f *Flow, isNew bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.flows[key]; f != nil {
		return f, false
	}
	if len(t.flows) >= t.max {
		return nil, false
	}
	f = &Flow{write: write, in: make(chan []byte, flowQueue), done: make(chan struct{})}
	t.flows[key] = f
	return f, true
}

// Remove closes the flow of key and forgets it.
func (t *Flows[K]) Remove(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.flows[key]; f != nil {
		_ = f.Close()
		delete(t.flows, key)
	}
}

// A Flow is one conversation on a shared UDP socket: one Read is one datagram,
// one Write sends one. It is safe for concurrent use.
type Flow struct {
	write func([]byte) (int, error)
	in    chan []byte
	once  sync.Once
	done  chan struct{}
}

// Deliver queues a copy of a datagram for Read, or drops it.
func (f *Flow) Deliver(datagram []byte) {
	select {
	case f.in <- bytes.Clone(datagram):
	default:
	}
}

// Read returns the next datagram, cut to len(p), and io.EOF after Close.
func (f *Flow) Read(p []byte) (int, error) {
	select {
	case d := <-f.in:
		return copy(p, d), nil
	case <-f.done:
		return 0, io.EOF
	}
}

// Write sends one datagram.
func (f *Flow) Write(p []byte) (int, error) { return f.write(p) }

// Close ends Read. The socket stays open, it belongs to all flows.
func (f *Flow) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}
