package audit

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Bounds of what is counted: distinct refusals altogether, per person or address, and of strangers, who have as
// many addresses as they like and must not fill the disk. What goes beyond is counted together, by person and
// then as a whole.
const (
	maxRepeats         = 4096
	maxRepeatsPerActor = 64
	maxStrangers       = 128
)

// A repeatKey is what makes two refusals equal.
type repeatKey struct {
	event     Event
	user      auth.UserID
	network   netip.Prefix // of a stranger
	kind      wire.Kind
	target    string
	service   string
	rule      string
	code      wire.Code
	condition string
	several   bool // stands for all that did not fit
}

// stranger reports refusals of somebody of whom only the address is known.
func (k repeatKey) stranger() bool { return k.user == "" && !k.everybody() }

// everybody reports the key of all that found no room.
func (k repeatKey) everybody() bool { return k.several && k.user == "" && !k.network.IsValid() }

// actor identifies who is refused.
func (k repeatKey) actor() repeatKey {
	return repeatKey{event: k.event, user: k.user, network: k.network, several: true}
}

// repeated is a refusal that is in the log, and how often it came again.
type repeated struct {
	first Record
	place ticket // of the first record
	order uint64 // by which entries are told
	count uint64
	since time.Time // of the first repetition that is counted
	last  time.Time
}

// repeats counts refusals. The log's mutex guards it.
type repeats struct {
	window  time.Duration
	entries map[repeatKey]*repeated
	actors  map[repeatKey]int // entries by actor
	strange int               // entries of strangers
	added   uint64            // entries so far
}

func (p *repeats) init(window time.Duration) {
	*p = repeats{window: window, entries: make(map[repeatKey]*repeated), actors: make(map[repeatKey]int)}
}

func (p *repeats) len() int { return len(p.entries) }

// keyOf returns the key that a refusal is counted under: its own, or one that it shares when there are
// too many.
func (p *repeats) keyOf(r *Record) repeatKey {
	k := repeatKey{
		event: r.Event, kind: r.Kind, target: capText(r.Target), service: r.Service, rule: r.Rule, code: r.Code,
		condition: capText(r.Condition),
	}
	if a := r.Actor; a != nil {
		k.user = a.User
		if k.user == "" {
			k.network = networkOf(a.Remote)
		}
	}
	if p.entries[k] != nil {
		return k
	}
	if p.actors[k.actor()] >= maxRepeatsPerActor {
		k = k.actor()
	}
	full := len(p.entries) >= maxRepeats || k.stranger() && p.strange >= maxStrangers
	if full && p.entries[k] == nil {
		return repeatKey{event: k.event, several: true}
	}
	return k
}

// networkOf returns the network that one stranger controls: an IPv4 address, or an IPv6 /64.
func networkOf(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	bits := 64
	if at.Addr().Unmap().Is4() {
		bits = 32
	}
	p, _ := at.Addr().Unmap().WithZone("").Prefix(bits)
	return p
}

func (p *repeats) add(k repeatKey, e *repeated) {
	p.added++
	e.order = p.added
	p.entries[k] = e
	if k.stranger() {
		p.strange++
	}
	p.actors[k.actor()]++
}

func (p *repeats) remove(k repeatKey) {
	delete(p.entries, k)
	if k.stranger() {
		p.strange--
	}
	if p.actors[k.actor()]--; p.actors[k.actor()] <= 0 {
		delete(p.actors, k.actor())
	}
}

// appendRefusal writes a refusal, or counts it when an equal one is in the log already. Either way the
// reference leads to a record that is on the disk.
func (l *Log) appendRefusal(ctx context.Context, r Record) (Receipt, error) {
	if e := l.repeat(&r); e != nil {
		return l.awaitFirst(ctx, e)
	}
	if r.Reference == "" {
		r.Reference = NewReference()
	}
	text, err := encode(&r)
	if err != nil {
		return Receipt{}, err
	}
	l.mu.Lock()
	k := l.repeats.keyOf(&r)
	if e := l.repeats.entries[k]; e != nil { // an equal one was faster
		l.repeats.count(e, r.Time)
		l.mu.Unlock()
		return l.awaitFirst(ctx, e)
	}
	t, err := l.enqueueLocked(r.Event, text)
	e := &repeated{first: r, place: t}
	if err == nil {
		l.repeats.add(k, e)
	}
	l.mu.Unlock()
	receipt, err := l.outcome(ctx, r.Event, text, Receipt{Reference: r.Reference, Stream: r.Stream}, t, err)
	if err != nil {
		l.forgetRefusal(k, e)
	}
	return receipt, err
}

// repeat counts a refusal that is in the log already, and returns its entry.
func (l *Log) repeat(r *Record) *repeated {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.repeats.entries[l.repeats.keyOf(r)]
	if e == nil || l.stopped {
		return nil
	}
	l.repeats.count(e, r.Time)
	return e
}

func (p *repeats) count(e *repeated, at time.Time) {
	if e.count == 0 {
		e.since = at
	}
	e.count, e.last = e.count+1, at
}

// awaitFirst waits until the record that a repetition leads to is on the disk.
func (l *Log) awaitFirst(ctx context.Context, e *repeated) (Receipt, error) {
	err := l.written(e.place)
	if err == nil {
		err = l.await(ctx, e.place.batch.round)
	}
	if err != nil && l.cfg.OnFailure == Refuse {
		return Receipt{}, err
	}
	return Receipt{Reference: e.first.Reference}, nil
}

// forgetRefusal has the next equal refusal be written: this one was not.
func (l *Log) forgetRefusal(k repeatKey, e *repeated) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.repeats.entries[k] == e {
		l.repeats.remove(k)
	}
}

// A summary is a record on its way that says how often a refusal came again.
type summary struct {
	of    *repeated
	place ticket
	count uint64
	since time.Time
}

// flushRepeats writes how often each refusal came again, and forgets those that did not.
func (l *Log) flushRepeats() {
	list := l.summarize()
	if len(list) == 0 {
		return
	}
	l.pen.Lock()
	l.writeQueue(nil)
	l.putDown()
	signal(l.urgent)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range list {
		if s.place.batch.err != nil { // it is told the next time
			s.of.count, s.of.since = s.of.count+s.count, s.since
		}
	}
}

func (l *Log) summarize() (list []summary) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.repeats.inOrder() {
		e := l.repeats.entries[k]
		if e.count == 0 {
			l.repeats.remove(k)
			continue
		}
		r := l.summaryOf(k, e)
		text, err := encode(&r)
		var t ticket
		if err == nil {
			t, err = l.enqueueLocked(r.Event, text)
		}
		if err != nil {
			l.cfg.Logger.Warn("audit log keeps counting refusals", "error", err)
			return list
		}
		list = append(list, summary{e, t, e.count, e.since})
		e.count = 0
	}
	return list
}

func (l *Log) summaryOf(k repeatKey, e *repeated) Record {
	r := e.first
	r.Time = l.stamp(time.Time{})
	r.Repeated = &Repeated{Count: e.count, First: e.since, Last: e.last}
	if k.several {
		r.Target, r.Detail = "", "refusals of several kinds, counted together"
	}
	if k.everybody() {
		r.Actor, r.Detail = nil, "refusals of several people or addresses, counted together"
	}
	return r
}

func (p *repeats) inOrder() []repeatKey {
	keys := make([]repeatKey, 0, len(p.entries))
	for k := range p.entries {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b repeatKey) int { return cmp.Compare(p.entries[a].order, p.entries[b].order) })
	return keys
}
