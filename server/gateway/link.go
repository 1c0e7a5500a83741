package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// link is one tunnel connection while it is served.
type link struct {
	g      *Gateway
	ctx    context.Context // of HandleTunnel
	remote netip.AddrPort
	log    *slog.Logger

	session *session.Session // nil until admitted
	tun     *tunnel.Session
	hello   wire.Hello
	asks    stepUps
	endings sync.Map // of approved requests that are about to end: service → time.Time
	began   time.Time
	record  string // of the opening record
	told    string // the reference that the person got with the end of the session

	due     chan struct{}  // services are to be announced
	ending  chan time.Time // a warning is due
	streams sync.WaitGroup

	renewals *rate.Limiter
	renewing sync.Mutex
	peer     mtls.Peer // guarded by renewing once the link is served

	subject atomic.Pointer[subject]

	facts        atomic.Pointer[facts]             // set with hello
	news         atomic.Pointer[map[string]string] // a posture that was not taken yet
	postures     chan struct{}                     // there is one
	postureLimit *rate.Limiter                     // used by watch alone
}

// subject is the policy's view of an identity on a device, made once per certificate and posture.
type subject struct {
	of     *auth.Identity
	on     *facts
	policy *policy.Subject
	actor  audit.Actor
}

// HandleTunnel serves a connection from its finished handshake until it has ended, and closes it. The error says why it ended; it is
// a *wire.Termination when one of the two ends said so.
func (g *Gateway) HandleTunnel(ctx context.Context, sock *tunnel.Socket, conn *tls.Conn) error {
	defer sock.Close()
	peer, err := mtls.PeerIdentity(conn.ConnectionState(), g.cfg.TrustDomain)
	if err != nil {
		return err
	}
	l := &link{
		g: g, ctx: ctx, peer: peer, remote: addrPort(sock), began: g.cfg.Now(),
		due: make(chan struct{}, 1), ending: make(chan time.Time, 1), renewals: rate.NewLimiter(renewalRate, renewalBurst),
		postures: make(chan struct{}, 1), postureLimit: rate.NewLimiter(postureRate, postureBurst),
		log: g.log.With("user", peer.Identity.UserID(), "session", peer.Identity.Session, "remote", sock.RemoteAddr().String()),
	}
	if err := g.register(l); err != nil {
		return err
	}
	defer g.unregister(l)
	l.tun, err = tunnel.Server(ctx, sock, conn, tunnel.ServerConfig{
		Logger: l.log, Limits: g.cfg.Tunnel, Admit: l.admit, OnRenewed: l.renewed, Stalls: g.cfg.Stalls,
		OnStepUp: l.asks.decline, OnPosture: l.postureTold,
	})
	if l.session != nil {
		defer l.session.Remove()
	}
	if err != nil {
		return err
	}
	return l.serve()
}

func addrPort(sock *tunnel.Socket) netip.AddrPort {
	at, err := netip.ParseAddrPort(sock.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// admit answers Hello. The session is registered first and checked then: what is locked, or drained, in between cuts it.
func (l *link) admit(hello wire.Hello) (wire.Welcome, error) {
	l.hello = hello
	l.facts.Store(factsOf(&hello, hello.Posture))
	welcome, err := l.tryAdmit(hello)
	if err == nil {
		return welcome, nil
	}
	var term *wire.Termination
	if !errors.As(err, &term) {
		l.log.Error("cannot check a session", "error", err)
		term = &wire.Termination{Code: wire.TerminateUnavailable, Reason: "the gateway cannot check your session at the moment; try again"}
	}
	l.g.metrics.refused.WithLabelValues(string(term.Code)).Inc()
	return wire.Welcome{}, l.auditRefusal(*term)
}

func (l *link) tryAdmit(hello wire.Hello) (wire.Welcome, error) {
	id := l.peer.Identity
	if hello.Session != "" && hello.Session != string(id.Session) {
		return wire.Welcome{}, &wire.Termination{Code: wire.TerminateIdentity, Reason: "the client names another session than its certificate does"}
	}
	s, err := l.g.cfg.Registry.Add(l.ctx, session.Spec{
		Identity: id, Serial: l.peer.Serial, NotAfter: l.peer.Certificate.NotAfter,
		Remote: l.remote, Client: hello.Client, Lane: hello.Lane, Warn: l.warn,
	})
	if err != nil {
		return wire.Welcome{}, err
	}
	l.session = s
	if l.g.isDraining() {
		return wire.Welcome{}, &wire.Termination{Code: wire.TerminateShutdown, Reason: shutdownReason}
	}
	deadline, err := l.allowed(l.peer)
	if err != nil {
		return wire.Welcome{}, err
	}
	s.SetDeadline(deadline)
	if err := context.Cause(s.Context()); err != nil {
		return wire.Welcome{}, err
	}
	return l.welcome(), nil
}

// admitTimeout bounds the question for locks, which may go to a database.
const admitTimeout = 5 * time.Second

func (l *link) allowed(peer mtls.Peer) (deadline time.Time, err error) {
	ctx, cancel := context.WithTimeout(l.ctx, admitTimeout)
	defer cancel()
	return l.g.cfg.Admit(ctx, peer)
}

func (l *link) welcome() wire.Welcome {
	return wire.Welcome{
		Session: string(l.peer.Identity.Session), Gateway: string(l.g.cfg.ID), ServerTime: l.g.cfg.Now(),
		NotAfter: l.session.NotAfter(), Deadline: l.session.Deadline(), Roots: l.roots(),
	}
}

func (l *link) roots() [][]byte {
	if l.g.cfg.RootsDER == nil {
		return nil
	}
	return l.g.cfg.RootsDER()
}

// serve runs an admitted connection until its end.
func (l *link) serve() error {
	if err := l.auditOpened(); err != nil {
		term := wire.Termination{Code: wire.TerminateUnavailable, Reason: "the gateway cannot write its audit log; try again later"}
		l.tun.CloseWith(term)
		return &term
	}
	l.log.Info("session opened", "serial", l.session.Serial(), "client", l.hello.Client)
	var accepting sync.WaitGroup
	accepting.Go(l.accept)
	l.announce()
	err := l.watch()
	_ = l.tun.Close() // fails the streams that have not come whole
	accepting.Wait()
	l.deliver()
	l.session.Remove() // cuts the streams that are left
	l.streams.Wait()
	l.auditClosed(err)
	l.log.Info("session closed", "reason", err)
	return err
}

// deliverTime is how long a service may take for what is left of a stream that came whole, as the kernel would go on after a close.
const deliverTime = time.Minute

// deliver waits for the streams that came whole before the connection ended, and whose service has not taken everything yet. What cuts
// the session cuts them too.
func (l *link) deliver() {
	done := make(chan struct{})
	go func() { defer close(done); l.streams.Wait() }()
	timer := time.NewTimer(deliverTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-l.session.Context().Done():
	case <-l.ctx.Done():
	}
}

// accept starts a goroutine for each stream and never waits for one.
func (l *link) accept() {
	for {
		req, err := l.tun.Accept(l.ctx)
		if err != nil {
			return
		}
		l.streams.Go(func() {
			defer l.survive("a stream")
			l.serveStream(req)
		})
	}
}

// survive ends this connection where a bug would end the gateway and everybody's. It is deferred.
func (l *link) survive(what string) {
	v := recover()
	if v == nil {
		return
	}
	l.g.metrics.panics.Inc()
	l.log.Error("panic; the connection ends", "in", what, "panic", v, "stack", string(debug.Stack()))
	l.session.End(&wire.Termination{Code: wire.TerminateUnavailable, Reason: "the gateway failed; its log says why"})
}

// watch tells the client what it is to know until the connection has ended.
func (l *link) watch() error {
	draining := l.g.draining
	var again <-chan time.Time
	for {
		select {
		case <-l.session.Context().Done():
			term := l.termination()
			l.tun.CloseWith(*term)
			return term
		case <-l.tun.Done():
			return l.tun.Err()
		case <-draining:
			draining = nil
			l.tell("draining", l.tun.Drain(wire.Draining{Reason: shutdownReason, Deadline: l.g.drainDeadline()}))
		case <-l.postures:
			again = l.takePosture()
		case <-again:
			again = l.takePosture()
		case <-l.due:
			l.tell("services", l.tun.SendServices(l.services()))
		case end := <-l.ending:
			l.log.Warn("session is about to end", "at", end)
			l.tell("warning", l.tun.SendRenewed(l.standing()))
		}
	}
}

func (l *link) tell(what string, err error) {
	if err != nil {
		l.log.Debug("cannot tell the client", "what", what, "error", err)
	}
}

// termination is why the session was cut, in the form that the client gets.
func (l *link) termination() *wire.Termination {
	term := &wire.Termination{Code: wire.TerminateShutdown, Reason: shutdownReason}
	_ = errors.As(context.Cause(l.session.Context()), &term)
	told := *term // the same one may end other sessions, too
	if told.Code != wire.TerminateShutdown && told.Reference == "" {
		told.Reference = l.record
	}
	l.told = told.Reference
	return &told
}

// announce has the services sent, once however often it is asked meanwhile.
func (l *link) announce() {
	select {
	case l.due <- struct{}{}:
	default:
	}
}

// services are what the person may see now. Only so many lists are made at once: after a change of the policy, everybody gets one.
func (l *link) services() wire.Services {
	l.g.listing <- struct{}{}
	defer func() { <-l.g.listing }()
	set := l.g.cfg.Policy()
	ask := l.ask(wire.Target{})
	list := set.Services(l.whom().policy, ask)
	for i := range list {
		end, ok := l.endings.Load(list[i].Name)
		if ok && list[i].Allowed && ask.Now.Before(end.(time.Time)) {
			list[i].Reason = "what you asked for ends at " + end.(time.Time).UTC().Format("15:04:05 UTC")
		}
	}
	return wire.Services{Services: list, PolicyVersion: set.Version()}
}

// ask is a question to the policy about an open stream.
func (l *link) ask(t wire.Target) policy.Request {
	g := l.g
	return policy.Request{Target: t, Now: g.cfg.Now(), Client: l.remote.Addr(), Stale: g.cfg.Stale != nil && g.cfg.Stale()}
}

// warn is called by the register.
func (l *link) warn(end time.Time) {
	select {
	case l.ending <- end:
	default:
	}
}

// whom returns the subject of the identity that the session runs under now, on the device as the client says that it is.
func (l *link) whom() *subject {
	id, on := l.session.Identity(), l.facts.Load()
	if s := l.subject.Load(); s != nil && s.of == id && s.on == on {
		return s
	}
	s := &subject{of: id, on: on, policy: policy.NewSubject(*id, on.device), actor: *audit.NewActor(*id, l.session.Serial(), l.remote)}
	l.subject.Store(s)
	return s
}

// standing is how long the session lives as things are.
func (l *link) standing() wire.Renewed {
	return wire.Renewed{NotAfter: l.session.NotAfter(), Deadline: l.session.Deadline(), Roots: l.roots()}
}

// How often a client may present a certificate: each time costs signatures, a record and a list of services, and an honest one comes
// a few times a day.
const (
	renewalRate  = rate.Limit(1) // a second
	renewalBurst = 16
)

var errTooManyRenewals = errors.New("certificates are presented too often; wait a second")

// renewed takes a renewed certificate that the client presents on the control stream. What it claims is verified as at a handshake,
// and it must continue this very session with this very key.
func (l *link) renewed(chain [][]byte) (wire.Renewed, error) {
	if !l.renewals.Allow() {
		l.g.metrics.renewals.WithLabelValues("limited").Inc()
		return wire.Renewed{}, errTooManyRenewals
	}
	l.renewing.Lock()
	defer l.renewing.Unlock()
	err := errors.New("the gateway failed") // unless renew returns
	func() {
		defer l.survive("a renewal")
		err = l.renew(chain)
	}()
	if err != nil {
		l.g.metrics.renewals.WithLabelValues("refused").Inc()
		l.log.Warn("renewed certificate refused", "error", err)
		return wire.Renewed{}, err
	}
	l.g.metrics.renewals.WithLabelValues("ok").Inc()
	l.announce()
	return l.standing(), nil
}

func (l *link) renew(chain [][]byte) error {
	next, err := mtls.VerifyClientChain(chain, mtls.ChainOptions{Roots: l.g.cfg.Roots(), TrustDomain: l.g.cfg.TrustDomain, Now: l.g.cfg.Now()})
	if err != nil {
		return err
	}
	if err := l.peer.CheckRenewal(next); err != nil {
		return err
	}
	if next.Serial == l.peer.Serial {
		return nil // presented again because the answer got lost
	}
	renewal := session.Renewal{Identity: next.Identity, Serial: next.Serial, NotAfter: next.Certificate.NotAfter}
	if err := l.session.CheckRenewal(renewal); err != nil {
		return err
	}
	if renewal.Deadline, err = l.allowed(next); err != nil {
		return errNoRenewalNow(err)
	}
	if err := l.auditRenewed(next, renewal.Deadline); err != nil {
		return errNoRenewalNow(err)
	}
	if err := l.session.Renew(renewal); err != nil {
		return err
	}
	l.peer = next
	// Once more, behind the change: a lock that came in between compared with the old claims.
	var term *wire.Termination
	if _, err := l.allowed(next); errors.As(err, &term) {
		l.session.End(term)
		return term
	}
	return nil
}

// errNoRenewalNow keeps the text of internal errors from the client.
func errNoRenewalNow(err error) error {
	var term *wire.Termination
	if errors.As(err, &term) {
		return term
	}
	return errors.New("the gateway cannot take the certificate at the moment")
}
