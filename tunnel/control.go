package tunnel

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// controlQueue bounds the messages that wait to be sent; each stream adds at most an abort, the rest are a few.
const controlQueue = 4096

// control is the first stream of a session. Its messages are sent in order by a goroutine that lives as long as there are any, and
// read by one that lives as long as the session.
type control struct {
	s     *Session
	ready chan struct{} // closed when st is set
	st    *Stream

	first chan wire.Message // the peer's first message, Hello or Welcome
	renew chan struct{}     // client: full from a Renew until the gateway's answer, whether or not somebody waits for it

	mu      sync.Mutex
	queue   []controlItem
	sending bool
	pongs   map[uint64]chan time.Time // by nonce
	nonce   uint64
	renewal chan wire.Renewed // non-nil while one is checked (gateway), or its answer awaited (client)
	parts   []wire.Service
	listed  int // bytes of the messages that parts came in
}

type controlItem struct {
	frame []byte        // as wire.Marshal returns it
	reset uint32        // the stream whose RST goes out behind it; 0: none
	muted *bool         // of that stream
	sent  chan struct{} // closed when it has left; nil: nobody wants to know
}

func newControl(s *Session) *control {
	return &control{
		s: s, ready: make(chan struct{}), first: make(chan wire.Message, 1), renew: make(chan struct{}, 1),
		pongs: make(map[uint64]chan time.Time),
	}
}

// adoptControl makes st the control stream, which counts against no limit, and begins to read and to send on it.
func (s *Session) adoptControl(st *Stream) {
	close(st.decided)
	s.mu.Lock()
	if s.server {
		s.pending--
	}
	s.live--
	st.undecided, st.released = false, true
	s.ctl.st = st
	s.mu.Unlock()
	close(s.ctl.ready)
	s.start(s.ctl.read)
}

// send queues a message.
func (c *control) send(m wire.Message) error {
	frame, err := wire.Marshal(m)
	if err != nil {
		return err
	}
	return c.enqueue(controlItem{frame: frame})
}

// abortLater queues an abort and the RST behind it.
func (c *control) abortLater(muted *bool, m *wire.Abort) {
	frame, err := wire.Marshal(m)
	if err != nil { // an unusable code: the RST alone still ends the stream
		frame = nil
	}
	_ = c.enqueue(controlItem{frame: frame, reset: m.StreamID, muted: muted}) // fails only when the session ends
}

func (c *control) enqueue(item controlItem) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) >= controlQueue {
		err := protocolError("it does not read the control stream")
		c.s.start(func() { c.s.fail(err) }) // the caller may hold a lock
		return err
	}
	c.queue = append(c.queue, item)
	if !c.sending {
		c.sending = true
		c.s.start(c.sendQueued)
	}
	return nil
}

func (c *control) sendQueued() {
	select {
	case <-c.ready:
	case <-c.s.done:
		return
	}
	for {
		c.mu.Lock()
		items := c.queue
		c.queue = nil
		if len(items) == 0 {
			c.sending = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for _, item := range items {
			if err := c.sendItem(item); err != nil {
				return // the session has ended
			}
		}
	}
}

func (c *control) sendItem(item controlItem) error {
	if item.frame != nil {
		o := outgoing{id: c.st.id, header: [wire.HeaderSize]byte(item.frame), payload: item.frame[wire.HeaderSize:], muted: &c.st.muted}
		if err := c.st.send(&o); err != nil {
			return err
		}
	}
	if item.reset != 0 {
		c.s.out.reset(item.reset, item.muted)
		c.s.resetLeft(item.reset)
	}
	if item.sent != nil {
		<-c.s.out.drained()
		close(item.sent)
	}
	return nil
}

// sendNow queues a message and waits until it has left, or for at most limit.
func (c *control) sendNow(m wire.Message, limit time.Duration) {
	frame, err := wire.Marshal(m)
	if err != nil {
		return
	}
	sent := make(chan struct{})
	if c.enqueue(controlItem{frame: frame, sent: sent}) != nil {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-sent:
	case <-c.s.done:
	case <-timer.C:
	}
}

// read handles the peer's messages until the session ends.
func (c *control) read() {
	consumed := int64(0)
	for first := true; ; first = false {
		m, n, err := c.next()
		if err != nil {
			c.s.end(err)
			return
		}
		if first {
			c.first <- m
		} else if err := c.handle(m, n); err != nil {
			c.s.end(err)
			return
		}
		consumed += int64(n)
		c.s.settle(consumed)
	}
}

// next reads one message, and returns its length too.
func (c *control) next() (wire.Message, int, error) {
	var head [wire.HeaderSize]byte
	if err := c.st.readFull(head[:]); err != nil {
		return nil, 0, c.lost(err)
	}
	h, err := wire.ParseHeader(head[:])
	if err != nil {
		return nil, 0, protocolError("on the control stream: %v", err)
	}
	body := make([]byte, h.Length)
	if err := c.st.readFull(body); err != nil {
		return nil, 0, c.lost(err)
	}
	m, err := wire.Parse(h.Type, body)
	if err != nil {
		return nil, 0, protocolError("on the control stream: %v", err)
	}
	return m, len(head) + len(body), nil
}

// lost is the end of the control stream, which is the end of the session.
func (c *control) lost(err error) error {
	if end := c.s.Err(); end != nil {
		return end
	}
	return protocolError("the control stream ended: %v", err)
}

// handle handles a message of size bytes.
func (c *control) handle(m wire.Message, size int) error {
	switch m := m.(type) {
	case *wire.Ping:
		return c.send(&wire.Pong{Nonce: m.Nonce, Time: time.Now().UnixMilli()})
	case *wire.Pong:
		c.ponged(m)
		return nil
	case *wire.Abort:
		c.s.peerAbort(m)
		return nil
	case *wire.Termination:
		c.s.fail(m)
		return nil
	case *wire.Renewed:
		return c.renewed(m)
	}
	if c.s.server {
		return c.handleAsServer(m)
	}
	return c.handleAsClient(m, size)
}

func (c *control) handleAsServer(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Posture:
		if c.s.cfg.onPosture != nil {
			c.s.cfg.onPosture(m.Values)
		}
		return nil
	case *wire.StepUp:
		if m.Refusal == "" {
			return protocolError("a client asked for a login")
		}
		c.stepUp(m)
		return nil
	}
	return protocolError("a client sent %s", m.Type())
}

func (c *control) stepUp(m *wire.StepUp) {
	if c.s.cfg.onStepUp != nil {
		c.s.cfg.onStepUp(*m)
	}
}

func (c *control) handleAsClient(m wire.Message, size int) error {
	switch m := m.(type) {
	case *wire.Services:
		return c.services(m, size)
	case *wire.Draining:
		c.s.mu.Lock()
		c.s.draining = m
		c.s.mu.Unlock()
		if c.s.cfg.onDraining != nil {
			c.s.cfg.onDraining(*m)
		}
		return nil
	case *wire.StepUp:
		if m.Refusal != "" {
			return protocolError("a gateway refused a login")
		}
		c.stepUp(m)
		return nil
	}
	return protocolError("a gateway sent %s", m.Type())
}

// maxAnnouncement bounds one announcement in bytes: 2 KiB for each of wire.MaxServices.
const maxAnnouncement = 16 << 20

// services joins the parts of one announcement.
func (c *control) services(m *wire.Services, size int) error {
	c.parts = append(c.parts, m.Services...)
	c.listed += size
	if len(c.parts) > wire.MaxServices {
		return protocolError("it announced more than %d services", wire.MaxServices)
	}
	if c.listed > maxAnnouncement {
		return protocolError("it announced services in more than %d bytes", maxAnnouncement)
	}
	if m.More {
		return nil
	}
	whole := wire.Services{Services: c.parts, PolicyVersion: m.PolicyVersion}
	c.parts, c.listed = nil, 0
	if c.s.cfg.onServices != nil {
		c.s.cfg.onServices(whole)
	}
	return nil
}

func (c *control) ponged(m *wire.Pong) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.pongs[m.Nonce]; ok {
		delete(c.pongs, m.Nonce)
		ch <- time.UnixMilli(m.Time)
	}
}

// renewed is a client's presentation of a certificate, or a gateway's answer.
func (c *control) renewed(m *wire.Renewed) error {
	if c.s.server {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.renewal != nil {
			return protocolError("it presented a certificate while another one was being checked")
		}
		c.renewal = make(chan wire.Renewed)
		c.s.start(func() { c.answerRenewal(m.Chain) })
		return nil
	}
	if m.Refusal == "" {
		c.s.extend(m)
	}
	if waiting := c.renewalOver(); waiting != nil {
		waiting <- *m
	} else if c.s.cfg.onAnswer != nil {
		c.s.cfg.onAnswer(*m)
	}
	return nil
}

// renewalOver lets the next Renew begin, and returns where the answer goes; nil when none was awaited.
func (c *control) renewalOver() chan<- wire.Renewed {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := c.renewal
	if waiting != nil {
		c.renewal = nil
		<-c.renew
	}
	return waiting
}

func (c *control) answerRenewal(chain [][]byte) {
	answer := wire.Renewed{Refusal: "this gateway takes no renewals"}
	if check := c.s.cfg.onRenewed; check != nil {
		var err error
		if answer, err = check(chain); err != nil {
			answer = wire.Renewed{Refusal: err.Error()}
		}
	}
	answer.Chain = nil
	if answer.Refusal == "" {
		c.s.extend(&answer)
	}
	c.mu.Lock()
	c.renewal = nil
	c.mu.Unlock()
	if err := c.send(&answer); err != nil {
		c.s.log.warn("renewal not answered", "error", err)
	}
}

// extend notes the times of a renewal.
func (s *Session) extend(m *wire.Renewed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !m.NotAfter.IsZero() {
		s.welcome.NotAfter = m.NotAfter
	}
	if !m.Deadline.IsZero() {
		s.welcome.Deadline = m.Deadline
	}
}

// Ping measures a round trip to the peer's session layer: through its control stream, not its kernel.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	ch := make(chan time.Time, 1)
	c := s.ctl
	c.mu.Lock()
	c.nonce++
	nonce := c.nonce
	c.pongs[nonce] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pongs, nonce)
		c.mu.Unlock()
	}()
	start := time.Now()
	if err := c.send(&wire.Ping{Nonce: nonce}); err != nil {
		return 0, fmt.Errorf("ping: %w", err)
	}
	select {
	case <-ch:
		return time.Since(start), nil
	case <-s.done:
		return 0, fmt.Errorf("ping: %w", s.Err())
	case <-ctx.Done():
		return 0, fmt.Errorf("ping: %w", context.Cause(ctx))
	}
}

// Renew presents a renewed certificate of the same session and key to the gateway (DER: the leaf, then its intermediates), and
// returns the gateway's answer. When the gateway refuses, the error is a *wire.Refusal with CodeDenied, and the session goes on as it
// was. A gateway checks one certificate at a time: Renew waits for the answer to an earlier one, also to one that was given up.
func (s *Session) Renew(ctx context.Context, chain [][]byte) (wire.Renewed, error) {
	c := s.ctl
	select {
	case c.renew <- struct{}{}:
	case <-s.done:
		return wire.Renewed{}, fmt.Errorf("renew: %w", s.Err())
	case <-ctx.Done():
		return wire.Renewed{}, fmt.Errorf("renew: %w", context.Cause(ctx))
	}
	answer := make(chan wire.Renewed, 1)
	c.mu.Lock()
	c.renewal = answer
	c.mu.Unlock()
	if err := c.send(&wire.Renewed{Chain: chain}); err != nil {
		c.renewalOver()
		return wire.Renewed{}, fmt.Errorf("renew: %w", err)
	}
	select {
	case m := <-answer:
		if m.Refusal != "" {
			return m, fmt.Errorf("renew: %w", &wire.Refusal{Code: wire.CodeDenied, Reason: m.Refusal})
		}
		return m, nil
	case <-s.done:
		return wire.Renewed{}, fmt.Errorf("renew: %w", s.Err())
	case <-ctx.Done():
		return wire.Renewed{}, fmt.Errorf("renew: %w", context.Cause(ctx))
	}
}

// SendServices announces what the client may see, in as many messages as it takes (gateway).
func (s *Session) SendServices(list wire.Services) error {
	for _, part := range list.Split() {
		if err := s.ctl.send(part); err != nil {
			return fmt.Errorf("announce services: %w", err)
		}
	}
	return nil
}

// SendRenewed tells the client new times or roots without being asked (gateway).
func (s *Session) SendRenewed(m wire.Renewed) error {
	m.Chain = nil
	s.extend(&m)
	return s.ctl.send(&m)
}

// SendPosture tells the gateway what the client says about its device from now on (client).
func (s *Session) SendPosture(values map[string]string) error {
	return s.ctl.send(&wire.Posture{Values: values})
}

// SendStepUp asks the client for a fresh login (gateway, to a client whose Hello has StepUp set), or tells the gateway that there will be
// none (client, with Refusal).
func (s *Session) SendStepUp(m wire.StepUp) error {
	if (m.Refusal != "") == s.server {
		return fmt.Errorf("step-up: a gateway asks, a client refuses")
	}
	return s.ctl.send(&m)
}

// Drain tells the client to open no more streams here (gateway). Streams whose request is on its way still come out of Accept.
func (s *Session) Drain(why wire.Draining) error {
	s.mu.Lock()
	s.draining = &why
	s.mu.Unlock()
	return s.ctl.send(&why)
}
