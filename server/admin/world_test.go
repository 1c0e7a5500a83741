package admin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const firstPolicy = `version: 1
services:
  wiki: {address: "wiki.internal:80"}
  payroll: {address: "payroll.internal:443"}
  db: {address: "db.internal:5432", requestable: {max: 4h, approvers: {groups: [corp/it]}}}
  vault: {address: "vault.internal:8200", hidden: true}
  safe: {address: "safe.internal:8200", requestable: {max: 1h, approvers: {groups: [corp/security]}}}
rules:
  - name: engineers
    subjects: {groups: [corp/engineering]}
    allow: [wiki]
  - name: contractors stay out
    subjects: {groups: [corp/contractors]}
    deny: [db]
    reason: Contractors use the replica.
tests:
  - name: an engineer reads the wiki
    subject: {groups: [corp/engineering]}
    allow: [wiki]
    deny: [payroll]
`

// variant is the first policy as somebody changed it; each n is another document.
func variant(n int) string { return firstPolicy + fmt.Sprintf("# change %d\n", n) }

var issuers = map[string]string{"corp": "https://idp.corp.example/", "partner": "https://idp.partner.example/"}

// world is the API over a real store and a real audit log.
type world struct {
	t        *testing.T
	store    *store.Store
	log      *audit.Log
	auditDir string
	logs     *testenv.Buffer // the gateway's own
	policies *policies
	api      *API
	sessions map[string]auth.SessionID
	checker  *checker
	now      *clock
	key      *ecdsa.PrivateKey // of certificates

	mu        sync.Mutex
	records   []audit.Record
	auditDown error
	preview   Preview
}

type options struct {
	file    bool
	timeout time.Duration
	changes int
}

func newWorld(t *testing.T) *world { return newWorldWith(t, options{}) }

func newWorldWith(t *testing.T, o options) *world {
	t.Helper()
	w := &world{t: t, sessions: make(map[string]auth.SessionID), logs: new(testenv.Buffer), now: &clock{at: time.Now()}}
	logger := slog.New(slog.NewTextHandler(io.MultiWriter(w.logs, t.Output()), nil))
	var err error
	w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.check(err)
	w.store, err = store.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "culvert.db"), store.Options{
		TrustDomain: "corp.example", Logger: logger, Clock: w.now.now,
	})
	w.check(err)
	t.Cleanup(func() { w.check(w.store.Close()) })
	w.auditDir = filepath.Join(t.TempDir(), "audit")
	w.log, err = audit.Open(audit.Config{Dir: w.auditDir, Gateway: "gw1", Logger: logger})
	w.check(err)
	t.Cleanup(func() { w.check(w.log.Close()) })
	w.policies = &policies{Store: w.store}
	w.api, err = New(Config{
		Policies: w.policies, Preview: w.previewed, Sessions: sessions{w.store}, Locks: w.store, Requests: w.store, Index: w.store,
		Inventory: w.store, Audit: w, Managed: !o.file, Gateway: "gw1", Version: "1.2.3", Logger: logger, Now: w.now.now,
		Issuer:      func(name string) (string, bool) { i, ok := issuers[name]; return i, ok },
		BodyTimeout: o.timeout, OwnChanges: o.changes,
	})
	w.check(err)
	w.checker = newChecker(t, w.api.document)
	w.apply(firstPolicy)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// Append is the audit log, with a copy for the test.
func (w *world) Append(ctx context.Context, r audit.Record) (audit.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.auditDown != nil {
		return audit.Receipt{}, w.auditDown
	}
	w.records = append(w.records, r)
	return w.log.Append(ctx, r)
}

func (w *world) previewed(ctx context.Context, old, next *policy.Set, since time.Time, progress func(done, total int64)) (*adminapi.Preview, error) {
	if w.preview != nil {
		return w.preview(ctx, old, next, since, progress)
	}
	progress(5, 10)
	progress(10, 10)
	return &adminapi.Preview{
		Since: since, Streams: 10, Unchanged: 9, Changed: 1,
		Transitions: []adminapi.Transition{{Was: "allowed", Becomes: "denied", Count: 1}},
		Changes:     []adminapi.PreviewChange{{User: adminapi.Person{ID: "x"}, Service: "wiki", Was: "allowed", Becomes: "denied", Count: 1, First: since, Last: since}},
	}, nil
}

// audited returns the records of an event so far.
func (w *world) audited(event audit.Event) []audit.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []audit.Record
	for _, r := range w.records {
		if r.Event == event {
			list = append(list, r)
		}
	}
	return list
}

// lastAudited returns the newest record of an event, and fails where there is none.
func (w *world) lastAudited(event audit.Event) audit.Record {
	w.t.Helper()
	list := w.audited(event)
	if len(list) == 0 {
		w.t.Fatalf("nothing was audited as %s", event)
	}
	return list[len(list)-1]
}

func (w *world) breakAudit(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.auditDown = err
}

// policies is the gateway's policy.
type policies struct {
	*store.Store
	mu  sync.Mutex
	set *policy.Set
	// beforePut runs when a change is about to be recorded. Optional.
	beforePut func()
}

func (p *policies) Set() *policy.Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set
}

func (p *policies) Load(document []byte) (*policy.Set, error) {
	return policy.Load("policy", document, policy.Options{Providers: []string{"corp", "partner"}})
}

func (p *policies) Apply(ctx context.Context, set *policy.Set, v store.PolicyVersion, expected int64) (store.PolicyVersion, error) {
	if p.beforePut != nil {
		p.beforePut()
	}
	v, err := p.PutPolicy(ctx, v, expected)
	if err == nil {
		p.mu.Lock()
		p.set = set
		p.mu.Unlock()
	}
	return v, err
}

// sessions has one stream of ada's at this gateway.
type sessions struct{ *store.Store }

func (sessions) Local(id auth.SessionID) []session.Info {
	now := time.Now()
	return []session.Info{{ID: 7, Identity: auth.Identity{Session: id}, Streams: []session.StreamInfo{
		{ID: 1, Target: wire.ServiceTarget(wire.KindTCP, "wiki"), Facts: session.Facts{Service: "wiki", Rule: "engineers"}, Decided: true, Since: now, BytesIn: 5},
	}}, {ID: 8, Streams: []session.StreamInfo{{ID: 1, Target: wire.ServiceTarget(wire.KindTCP, "wiki"), Since: now}}}}
}

// apply puts a policy into force behind the API's back.
func (w *world) apply(document string) int64 {
	w.t.Helper()
	set, err := w.policies.Load([]byte(document))
	w.check(err)
	v, err := w.policies.Apply(w.t.Context(), set, store.PolicyVersion{
		Digest: set.Version(), Source: "managed", Author: "somebody", Document: []byte(document),
	}, w.head())
	w.check(err)
	return v.Number
}

func (w *world) head() int64 {
	w.t.Helper()
	head, err := w.store.HeadPolicy(w.t.Context())
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		w.t.Fatal(err)
	}
	return head.Number
}

// identity is a person of a provider, as their certificate has them.
func identity(provider, name string, groups ...string) auth.Identity {
	return auth.Identity{
		Issuer: issuers[provider], Subject: name, Provider: provider, Name: strings.ToUpper(name[:1]) + name[1:],
		Email: name + "@corp.example", EmailTrusted: true, Groups: groups, GroupsKnown: true, Login: auth.LoginBrowser,
		AuthTime: time.Now(), Session: auth.NewSessionID(), Device: auth.DeviceIDFromKey([]byte(name)),
	}
}

// person is a caller through the tunnel.
func person(name string, groups []string, roles ...adminapi.Role) Caller {
	return Caller{
		Identity: identity("corp", name, groups...), Serial: auth.Serial(strings.Repeat("ab", 16)), Roles: roles, Via: ViaTunnel, Remote: "192.0.2.9:4711",
	}
}

func root() Caller { return Caller{Via: ViaSocket, UID: 0} }

// login has somebody seen, with a session and a certificate.
func (w *world) login(id auth.Identity) auth.UserID {
	w.t.Helper()
	now := w.now.now()
	user := id.UserID()
	token := string(id.Session)
	serial, der := w.certificate(token)
	out, err := w.store.Issue(w.t.Context(), store.Issuance{
		Token: token, TokenExpires: now.Add(time.Hour), TokenIssuedAt: now, Key: store.HashKey([]byte(token)),
		Groups: id.Groups, GroupsKnown: id.GroupsKnown,
		User: store.User{
			ID: user, Issuer: id.Issuer, Subject: id.Subject, Provider: id.Provider, Name: id.Name, Email: id.Email, EmailTrusted: id.EmailTrusted,
			Groups: id.Groups, GroupsKnown: id.GroupsKnown,
		},
		Session: store.Session{
			ID: id.Session, Device: id.Device, Provider: id.Provider, Login: id.Login, Nonce: token, Client: "culvert 1.2.3 linux/amd64",
			AuthTime: now, Deadline: now.Add(12 * time.Hour),
		},
		Sign: func(at time.Time, s store.Session) (store.Certificate, error) {
			return store.Certificate{
				Serial: serial, Kind: store.CertificateClient, Session: s.ID, Holder: "spiffe://corp.example/user/" + string(user),
				IssuedAt: at, NotBefore: at, NotAfter: at.Add(time.Hour), Chain: [][]byte{der},
			}, nil
		},
	})
	w.check(err)
	w.sessions[id.Subject] = out.Session.ID
	return user
}

// certificate is one of its own, with a serial number of the token.
func (w *world) certificate(token string) (auth.Serial, []byte) {
	w.t.Helper()
	sum := sha256.Sum256([]byte(token))
	sum[0] &= 0x7f // serial numbers are positive
	number := new(big.Int).SetBytes(sum[:16])
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: number}, &x509.Certificate{}, w.key.Public(), w.key)
	w.check(err)
	return auth.NewSerial(number), der
}

// connect has a connection of somebody's session listed.
func (w *world) connect(id auth.Identity, connection uint64, since time.Time) {
	w.t.Helper()
	w.check(w.store.Beat(w.t.Context(), store.Gateway{ID: "gw1", Address: "198.51.100.1:443", Version: "1.2.3", Started: since}))
	w.check(w.store.PutLive(w.t.Context(), "gw1", []store.Live{{
		Gateway: "gw1", ID: connection, User: id.UserID(), Name: id.Name, Email: id.Email, Session: id.Session, Device: id.Device,
		Serial: auth.Serial(strings.Repeat("cd", 16)), Remote: "192.0.2.1:5", Client: "culvert", Since: since, NotAfter: since.Add(time.Hour),
		Deadline: since.Add(12 * time.Hour), Streams: 1, BytesIn: 5,
	}}))
}

// ask has a request of somebody wait for an answer.
func (w *world) ask(id auth.Identity, service string, lasts time.Duration) string {
	w.t.Helper()
	r, err := w.store.PutRequest(w.t.Context(), store.Request{
		ID: audit.NewReference(), User: id.UserID(), Provider: id.Provider, Name: id.Name, Email: id.Email, Service: service, Reason: "an outage", For: lasts,
	})
	w.check(err)
	return r.ID
}

// as is a client of culvert-admin for a caller; every reply is held against the OpenAPI document.
func (w *world) as(c Caller) *adminapi.Client {
	return w.client(w.api.Admin(), &c, adminapi.ServiceAdmin)
}

// own is a client of culvert-self for a caller.
func (w *world) own(c Caller) *adminapi.Client {
	return w.client(w.api.Self(), &c, adminapi.ServiceSelf)
}

func (w *world) client(h http.Handler, c *Caller, service string) *adminapi.Client {
	address := w.serve(h, c)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &adminapi.Client{HTTP: &http.Client{Transport: &checkedTransport{w.checker, transport}}, Base: "http://" + service}
}

// serve listens as a gateway does behind its built-in services; a nil caller is nobody.
func (w *world) serve(h http.Handler, c *Caller) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	server := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if c != nil {
				r = r.WithContext(WithCaller(r.Context(), *c))
			}
			h.ServeHTTP(rw, r)
		}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	w.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().String()
}

// refused checks that an error is a problem with that code, and returns it.
func refused(t *testing.T, err error, code adminapi.Code) *adminapi.Problem {
	t.Helper()
	var p *adminapi.Problem
	if !errors.As(err, &p) {
		t.Fatalf("%v; want a problem %s", err, code)
	}
	if p.Code != code {
		t.Fatalf("%s (%s); want %s", p.Code, p.Detail, code)
	}
	if p.Reference == "" || p.Status != statusOf(code) {
		t.Errorf("%+v", p)
	}
	return p
}

// must returns v, and fails on an error.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// collect walks a list in pages.
func collect[T any](t *testing.T, get func(cursor string) (*adminapi.Page[T], error)) []T {
	t.Helper()
	var list []T
	for cursor := ""; ; {
		page, err := get(cursor)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, page.Items...)
		if cursor = page.Next; cursor == "" {
			return list
		}
	}
}

// clock is the time of the gateway and of its database.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}
