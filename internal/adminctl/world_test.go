package adminctl_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/server/admin"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sourceDir is where the tests' data lies; a test that changes its folder cannot say ".".
var sourceDir = func() string {
	dir, err := filepath.Abs(".")
	if err != nil {
		panic(err)
	}
	return dir
}()

// night is when the tests happen: 3 a.m., two hours east of Greenwich.
var night = time.Date(2026, 7, 14, 3, 0, 0, 0, time.FixedZone("CEST", 2*3600))

const issuer = "https://idp.corp.example/"

const firstPolicy = `version: 1
services:
  wiki: {address: "wiki.internal:8080", description: Team wiki}
  payroll: {address: "payroll.internal:443", description: Salaries}
  db: {address: "db.internal:5432", requestable: {max: 4h, approvers: {groups: [it]}}}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [wiki]}
  - {name: accounting, subjects: {groups: [accounting]}, allow: [payroll], when: device.disk_encrypted}
  - {name: contractors stay out, subjects: {groups: [contractors]}, deny: [payroll], reason: Contractors do not see salaries.}
tests:
  - {name: an engineer reads the wiki, subject: {groups: [engineering]}, allow: [wiki], deny: [payroll]}
`

// secondPolicy wants fresh logins for the wiki, which its own test knows.
var secondPolicy = strings.NewReplacer("allow: [wiki]}\n", "allow: [wiki], reauth_within: 15m}\n", "allow: [wiki], deny", "step_up: [wiki], deny").Replace(firstPolicy)

// failingPolicy forgot its test.
var failingPolicy = strings.Replace(firstPolicy, "allow: [wiki]}\n", "allow: [wiki], reauth_within: 15m}\n", 1)

// A world is a gateway's administration with a real store and the real handler behind it.
type world struct {
	t        *testing.T
	store    *store.Store
	policies *policies
	caller   admin.Caller
	audited  []audit.Record
	sessions map[string]auth.SessionID
	serials  map[string]auth.Serial
	address  string // where it listens
	self     string // likewise, for people's own requests
	terminal bool
	width    int // of the terminal
	ticks    atomic.Int64
	api      *admin.API
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, width: 100, sessions: map[string]auth.SessionID{}, serials: map[string]auth.Serial{}}
	var err error
	w.store, err = store.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "culvert.db"), store.Options{
		TrustDomain: "corp.example", Logger: slog.New(slog.DiscardHandler), Clock: w.tick,
	})
	w.check(err)
	t.Cleanup(func() { w.check(w.store.Close()) })
	w.policies = &policies{Store: w.store}
	w.seed()
	w.caller = w.person("root-admin", adminapi.RoleOwner)
	w.serve(true)
	return w
}

// tick is the database's clock: no two things happen at once there.
func (w *world) tick() time.Time { return night.Add(time.Duration(w.ticks.Add(1)) * time.Millisecond) }

// serve listens as a gateway does behind its built-in services.
func (w *world) serve(managed bool) {
	api, err := admin.New(admin.Config{
		Policies: w.policies, Preview: w.preview, Sessions: sessions{w.store}, Locks: w.store, Requests: w.store, Index: w.store, Inventory: w.store,
		Audit: w, Managed: managed, Gateway: "gw1", Version: "1.0.0", Now: func() time.Time { return night },
		Issuer: func(name string) (string, bool) { return issuer, name == "corp" }, OnlyProvider: "corp",
	})
	w.check(err)
	w.api = api
	w.address, w.self = w.listen(api.Admin()), w.listen(api.Self())
}

func (w *world) listen(h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(rw, r.WithContext(admin.WithCaller(r.Context(), w.caller)))
	}), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
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

// impostor is something else behind the address.
func (w *world) impostor(kind string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if kind == "talks nonsense" {
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello")
			}
			_ = conn.Close()
		}
	}()
	w.t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// Append is the audit log.
func (w *world) Append(_ context.Context, r audit.Record) (audit.Receipt, error) {
	w.audited = append(w.audited, r)
	return audit.Receipt{Seq: uint64(len(w.audited)), Reference: "k7qw-3m9p"}, nil
}

func (w *world) preview(_ context.Context, _, _ *policy.Set, since time.Time, progress func(done, total int64)) (*adminapi.Preview, error) {
	progress(0, 10_000_000)
	progress(10_000_000, 10_000_000)
	return &adminapi.Preview{
		Since: since, Streams: 10_000_000, Unchanged: 9_999_000, Undecidable: 500, Changed: 500,
		Transitions: []adminapi.Transition{{Was: "allowed", Becomes: "step_up_required", Count: 400}, {Was: "allowed", Becomes: "denied", Count: 100}},
		Changes: []adminapi.PreviewChange{
			{User: adminapi.Person{Email: "ada@corp.example"}, Service: "wiki", Was: "allowed", Becomes: "step_up_required", Rule: "engineers", Count: 400, First: since, Last: night.Add(-time.Hour)},
			{User: adminapi.Person{Email: "bob@corp.example"}, Service: "payroll", Was: "allowed", Becomes: "denied", Rule: "contractors stay out", Reason: "Contractors do not see salaries.", Count: 100, First: since, Last: night.Add(-26 * time.Hour)},
		},
	}, nil
}

// policies is the gateway's policy.
type policies struct {
	*store.Store
	set *policy.Set
}

func (p *policies) Set() *policy.Set { return p.set }

func (p *policies) Load(document []byte) (*policy.Set, error) {
	return policy.Load("policy", document, policy.Options{Providers: []string{"corp"}})
}

func (p *policies) Apply(ctx context.Context, set *policy.Set, v store.PolicyVersion, expected int64) (store.PolicyVersion, error) {
	v, err := p.PutPolicy(ctx, v, expected)
	if err == nil {
		p.set = set
	}
	return v, err
}

// sessions has no connection of its own.
type sessions struct{ *store.Store }

func (sessions) Local(auth.SessionID) []session.Info { return nil }

func (w *world) person(name string, roles ...adminapi.Role) admin.Caller {
	return admin.Caller{
		Identity: auth.Identity{Issuer: issuer, Subject: name, Provider: "corp", Name: name, Email: name + "@corp.example", EmailTrusted: true,
			GroupsKnown: true, Groups: []string{"engineering"}},
		Serial: auth.Serial(strings.Repeat("ab", 16)), Roles: roles, Via: admin.ViaTunnel, Remote: "192.0.2.9:4711",
	}
}

// seed is a small company: ada is connected, bob could reconnect, and there is somebody without an e-mail address.
func (w *world) seed() {
	w.policy(firstPolicy, "root-admin", "the first rules")
	w.policy(firstPolicy+"# nothing but this\n", "corp:ada@corp.example", "")
	w.login("ada", "ada@corp.example", "engineering")
	w.login("bob", "bob@corp.example", "accounting", "contractors")
	w.login("grace", "")
	w.check(w.store.Beat(w.t.Context(), store.Gateway{ID: "gw1", Address: "gw1.corp.example:443", Version: "1.0.0", PolicyDigest: w.policies.set.Version(),
		Started: night.Add(-50 * time.Hour), Sessions: 1, Streams: 3}))
	w.check(w.store.PutLive(w.t.Context(), "gw1", []store.Live{{
		Gateway: "gw1", ID: 7, User: auth.NewUserID(issuer, "ada"), Name: "Ada", Email: "ada@corp.example", Session: w.sessions["ada"],
		Device: device("ada"), Serial: w.serials["ada"], Remote: "198.51.100.7:50123", Client: "culvert 1.0.0 linux/amd64", Since: night.Add(-2 * time.Hour),
		NotAfter: night.Add(20 * time.Minute), Deadline: night.Add(10 * time.Hour), Streams: 3, BytesIn: 12_345, BytesOut: 7 << 20,
	}}))
	w.index()
}

func (w *world) policy(text, author, comment string) {
	w.t.Helper()
	set, err := w.policies.Load([]byte(text))
	w.check(err)
	head, err := w.store.HeadPolicy(w.t.Context())
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		w.t.Fatal(err)
	}
	_, err = w.policies.Apply(w.t.Context(), set, store.PolicyVersion{
		Digest: set.Version(), Source: "managed", Author: author, Comment: comment, Document: []byte(text),
	}, head.Number)
	w.check(err)
}

func device(name string) auth.DeviceID { return auth.DeviceIDFromKey([]byte("device of " + name)) }

func (w *world) login(name, email string, groups ...string) {
	w.t.Helper()
	w.loginAs(issuer, "corp", name, email, groups...)
}

func (w *world) loginAs(issuer, provider, name, email string, groups ...string) {
	w.t.Helper()
	serial := sha256.Sum256([]byte(strings.TrimPrefix(provider, "corp") + name))
	w.serials[name] = auth.Serial(fmt.Sprintf("%x", serial[:16]))
	leaf := w.certificate(name)
	full := map[string]string{"ada": "Ada", "bob": "Bob", "grace": "Root Admin"}[name]
	out, err := w.store.Issue(w.t.Context(), store.Issuance{
		Token: provider + name, TokenExpires: night.Add(time.Hour), TokenIssuedAt: night.Add(-time.Minute), Key: store.HashKey([]byte(name)),
		User: store.User{ID: auth.NewUserID(issuer, name), Issuer: issuer, Subject: name, Provider: provider, Name: full, Email: email, EmailTrusted: email != "",
			Groups: groups, GroupsKnown: len(groups) > 0},
		Groups: groups, GroupsKnown: len(groups) > 0,
		Session: store.Session{ID: sessionID(strings.TrimPrefix(provider, "corp") + name), Device: device(name), Provider: provider, Login: auth.LoginBrowser, Nonce: name,
			Client: "culvert 1.0.0 linux/amd64", AuthTime: night.Add(-2 * time.Hour), Deadline: night.Add(10 * time.Hour)},
		Sign: func(at time.Time, s store.Session) (store.Certificate, error) {
			return store.Certificate{Serial: w.serials[name], Kind: store.CertificateClient, Session: s.ID, Holder: "spiffe://corp.example/user/" + string(s.User),
				IssuedAt: at, NotBefore: at.Add(-time.Minute), NotAfter: at.Add(time.Hour), Chain: [][]byte{leaf}}, nil
		},
	})
	w.check(err)
	w.sessions[name] = out.Session.ID
}

func sessionID(name string) auth.SessionID {
	sum := sha256.Sum256([]byte("session of " + name))
	return auth.SessionID(strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])))
}

// certificate is one that parses; nobody checks more.
func (w *world) certificate(name string) []byte {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	der, err := x509.CreateCertificate(nil, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}, &x509.Certificate{}, key.Public(), key)
	w.check(err)
	return der
}

// index has a denied and a closed stream.
func (w *world) index() {
	ada := store.AuditRow{Gateway: "gw1", Log: "20260714T010000Z", User: auth.NewUserID(issuer, "ada"), Provider: "corp", Name: "Ada", Email: "ada@corp.example",
		Session: w.sessions["ada"], Device: device("ada"), Serial: w.serials["ada"], Remote: "198.51.100.7:50123", Kind: "tcp"}
	denied, closed := ada, ada
	denied.Seq, denied.Time, denied.Event, denied.Reference = 11, night.Add(-10*time.Minute), "stream.denied", "p2wx-77ab"
	denied.Service, denied.Target, denied.Code, denied.Condition, denied.Reason = "payroll", "payroll", "denied", "no_rule_allows", "no rule allows payroll to you; it is open to the group accounting"
	closed.Seq, closed.Time, closed.Event, closed.Service, closed.Target, closed.Rule = 12, night.Add(-5*time.Minute), "stream.close", "wiki", "wiki", "engineers"
	closed.Sent, closed.Received, closed.DurationMS = 2048, 5<<20, 65_000
	w.check(w.store.IndexBatch(w.t.Context(), "gw1", "p", []store.AuditRow{denied, closed}))
}

// A ran is what one command line did.
type ran struct {
	code            int
	out, err        string
	screen          string // both, as they came; lines of stderr begin with "! "
	hint, reference string
}

// marked writes lines behind a mark.
type marked struct{ w io.Writer }

func (m marked) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, err := io.WriteString(m.w, "! "+line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// culvert runs a command line as the program does: "admin …" or "request …".
func (w *world) culvert(args ...string) ran { return w.typed("", args...) }

// typed is culvert with something on standard input.
func (w *world) typed(in string, args ...string) ran {
	w.t.Helper()
	var out, errOut, screen bytes.Buffer
	address := w.address
	if args[0] == "request" {
		address = w.self
	}
	json := false
	cfg := adminctl.Config{
		In: strings.NewReader(in), Out: io.MultiWriter(&out, &screen), Err: io.MultiWriter(&errOut, marked{&screen}), Program: "culvert", Now: func() time.Time { return night },
		JSON: func() bool { return json }, Terminal: func() bool { return w.terminal },
		Width: func() int { return w.width },
		Connect: func(context.Context) (adminctl.Connection, error) {
			return adminctl.Connection{Dial: func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", address) }}, nil
		},
	}
	cfg.Peek = cfg.Connect
	root := &cobra.Command{Use: "culvert", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().BoolVar(&json, "json", false, "")
	root.AddCommand(adminctl.Command(cfg), adminctl.RequestCommand(cfg))
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errOut)
	err := root.ExecuteContext(w.t.Context())
	r := ran{out: out.String(), err: errOut.String(), screen: screen.String()}
	var own *adminctl.Error
	switch {
	case errors.As(err, &own):
		r.code, r.hint, r.reference = own.Code, own.Hint, own.Reference
		if !own.Quiet() {
			r.err += own.Message + "\n"
			r.screen += "! culvert: " + own.Message + "\n"
		}
	case err != nil:
		r.code, r.err = adminctl.ExitError, r.err+err.Error()+"\n"
	}
	return r
}
