package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// newCertificate makes a real certificate, since the inventory parses what it keeps.
func newCertificate(t testing.TB, at, notAfter time.Time) Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: at, NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return Certificate{
		Serial: auth.NewSerial(serial), Kind: CertificateClient, Holder: "spiffe://corp.example/user/x",
		IssuedAt: at, NotBefore: at, NotAfter: notAfter, Chain: [][]byte{der, der},
	}
}

// login is an issuance for a new session of ada, with the given token and key.
func login(t testing.TB, s *Store, token string, key KeyHash) Issuance {
	t.Helper()
	now, err := s.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return Issuance{
		Token: token, TokenExpires: now.Add(time.Hour), TokenIssuedAt: now, Key: key, GroupsKnown: true, Groups: []string{"engineering"},
		User: User{ID: auth.NewUserID("https://idp", "ada"), Issuer: "https://idp", Subject: "ada", Provider: "corp", Name: "Ada"},
		Session: Session{
			ID: auth.NewSessionID(), Device: "laptop", Provider: "corp", Login: auth.LoginBrowser, Nonce: "n",
			AuthTime: now, Deadline: now.Add(12 * time.Hour),
		},
		Sign: func(at time.Time, _ Session) (Certificate, error) {
			return newCertificate(t, at, at.Add(time.Hour)), nil
		},
	}
}

// renewal is an issuance for the same session with a token of iat.
func renewal(t testing.TB, s *Store, first Issued, token string, iat time.Time) Issuance {
	in := login(t, s, token, first.Session.Key)
	in.Renewal, in.TokenIssuedAt = true, iat
	in.Session = Session{ID: first.Session.ID}
	return in
}

func mustIssue(t testing.TB, s *Store, in Issuance) Issued {
	t.Helper()
	out, err := s.Issue(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantIssueError(t testing.TB, s *Store, in Issuance, want error) {
	t.Helper()
	in.Sign = func(time.Time, Session) (Certificate, error) {
		t.Error("Sign was called")
		return Certificate{}, errors.New("not reached")
	}
	if _, err := s.Issue(t.Context(), in); !errors.Is(err, want) {
		t.Errorf("Issue: %v, want %v", err, want)
	}
}

func TestIssueRecordsEverything(t *testing.T) { eachDatabase(t, testIssueRecordsEverything) }

func testIssueRecordsEverything(t *testing.T, db database) {
	s := db.open(t, newClock())
	out := mustIssue(t, s, login(t, s, "a", "key"))
	if out.Repeated || !out.Session.Created.Equal(out.At) {
		t.Errorf("%+v", out)
	}
	cert, err := s.Certificate(t.Context(), out.Certificate.Serial)
	if err != nil || cert.Fingerprint() != out.Certificate.Fingerprint() || len(cert.Chain) != 2 || cert.Session != out.Session.ID {
		t.Errorf("certificate %+v, %v", cert, err)
	}
	session, err := s.Session(t.Context(), out.Session.ID)
	if err != nil || session != out.Session || session.Subject != "ada" {
		t.Errorf("session %+v, %v; want %+v", session, err, out.Session)
	}
	users, err := s.Users(t.Context(), "", 10)
	if err != nil || len(users) != 1 || users[0].Name != "Ada" || users[0].FirstSeen.IsZero() {
		t.Errorf("users %+v, %v", users, err)
	}
	live, err := s.LiveSessions(t.Context(), "", 10)
	if err != nil || len(live) != 1 {
		t.Errorf("live sessions %+v, %v", live, err)
	}
}

// What Sign refuses leaves nothing behind, so that the token can be used again.
func TestIssueIsAllOrNothing(t *testing.T) { eachDatabase(t, testIssueIsAllOrNothing) }

func testIssueIsAllOrNothing(t *testing.T, db database) {
	s := db.open(t, newClock())
	in := login(t, s, "a", "key")
	sign, refused := in.Sign, errors.New("refused")
	in.Sign = func(time.Time, Session) (Certificate, error) { return Certificate{}, refused }
	if _, err := s.Issue(t.Context(), in); !errors.Is(err, refused) || errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if users, _ := s.Users(t.Context(), "", 10); len(users) != 0 {
		t.Errorf("users %+v", users)
	}
	in.Sign = sign
	mustIssue(t, s, in)
}

// Login: one-time use races (TS-2025-007).
func TestThreatParallelRedemptionsMakeOneCertificate(t *testing.T) {
	eachDatabase(t, testParallelRedemptionsMakeOneCertificate)
}

func testParallelRedemptionsMakeOneCertificate(t *testing.T, db database) {
	gateways := []*Store{db.open(t, nil), db.open(t, nil)}
	in := login(t, gateways[0], "nonce", "key")
	sign := in.Sign
	var signed atomic.Int32
	in.Sign = func(at time.Time, session Session) (Certificate, error) {
		signed.Add(1)
		return sign(at, session)
	}
	var wg sync.WaitGroup
	serials, repeats := make([]auth.Serial, 100), atomic.Int32{}
	for i := range serials {
		wg.Go(func() {
			in := in
			in.Session.ID = auth.NewSessionID()
			out, err := gateways[i%2].Issue(context.Background(), in)
			if err != nil {
				t.Error(err)
			}
			if out.Repeated {
				repeats.Add(1)
			}
			serials[i] = out.Certificate.Serial
		})
	}
	wg.Wait()
	if signed.Load() != 1 || repeats.Load() != 99 {
		t.Errorf("%d certificates, %d repeats", signed.Load(), repeats.Load())
	}
	for _, serial := range serials {
		if serial != serials[0] {
			t.Fatalf("certificates %s and %s", serial, serials[0])
		}
	}
	for _, s := range gateways {
		_ = s.Close()
	}
	// Replay after restart: the same key again gets the same, another nothing.
	again := db.open(t, nil)
	if out := mustIssue(t, again, in); out.Certificate.Serial != serials[0] || !out.Repeated {
		t.Errorf("after restart: %+v", out)
	}
	other := login(t, again, "nonce", "other key")
	wantIssueError(t, again, other, ErrRedeemed)
}

func TestRedeemedGivesTheSameAgain(t *testing.T) { eachDatabase(t, testRedeemedGivesTheSameAgain) }

func testRedeemedGivesTheSameAgain(t *testing.T, db database) {
	s := db.open(t, newClock())
	out := mustIssue(t, s, login(t, s, "a", "key"))
	again, err := s.Redeemed(t.Context(), "a", "key")
	if err != nil || again.Certificate.Fingerprint() != out.Certificate.Fingerprint() {
		t.Errorf("%+v, %v", again, err)
	}
	for _, c := range []struct{ token, key string }{{"a", "other"}, {"b", "key"}} {
		if _, err := s.Redeemed(t.Context(), c.token, KeyHash(c.key)); !errors.Is(err, ErrRedeemed) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestRepeatEndsWithTheCertificate(t *testing.T) {
	eachDatabase(t, testRepeatEndsWithTheCertificate)
}

func testRepeatEndsWithTheCertificate(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	in := login(t, s, "a", "key")
	mustIssue(t, s, in)
	clock.advance(time.Hour)
	wantIssueError(t, s, in, ErrRedeemed)
}

func TestRenewalRules(t *testing.T) { eachDatabase(t, testRenewalRules) }

func testRenewalRules(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	first := mustIssue(t, s, login(t, s, "a", "key"))
	clock.advance(2 * time.Hour) // the certificate has expired, the session has not
	second := mustIssue(t, s, renewal(t, s, first, "b", clock.now()))
	want := first.Session
	want.TokenIssuedAt = clock.now()
	if second.Session != want || second.Certificate.Serial == first.Certificate.Serial {
		t.Errorf("renewed %+v, want %+v", second.Session, want)
	}
	wantIssueError(t, s, renewal(t, s, first, "old", clock.now().Add(-time.Second)), ErrTokenOld)
	mustIssue(t, s, renewal(t, s, first, "of the same second", clock.now()))

	clock.advance(time.Minute)
	wrong := renewal(t, s, first, "c", clock.now())
	wrong.Key = "other"
	wantIssueError(t, s, wrong, ErrWrongKey)
	wrong = renewal(t, s, first, "c", clock.now())
	wrong.User.ID, wrong.User.Subject = "bob", "bob"
	wantIssueError(t, s, wrong, ErrWrongKey)
	wrong = renewal(t, s, first, "c", clock.now())
	wrong.Session.ID = "unknown"
	wantIssueError(t, s, wrong, ErrNotFound)

	// The token of a renewal, for another session with the same key.
	other := mustIssue(t, s, login(t, s, "d", "key"))
	wantIssueError(t, s, renewal(t, s, other, "b", clock.now()), ErrRedeemed)

	certs, err := s.CertificatesOf(t.Context(), first.Session.ID)
	if err != nil || len(certs) != 3 {
		t.Errorf("inventory: %d, %v", len(certs), err)
	}
	clock.advance(12 * time.Hour)
	wantIssueError(t, s, renewal(t, s, first, "e", clock.now()), ErrSessionEnded)
}

func TestAnUndatedTokenIsRedeemedOnceAllTheSame(t *testing.T) {
	eachDatabase(t, testAnUndatedTokenIsRedeemedOnceAllTheSame)
}

func testAnUndatedTokenIsRedeemedOnceAllTheSame(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	first := mustIssue(t, s, login(t, s, "a", "key"))
	in := renewal(t, s, first, "b", first.Session.TokenIssuedAt)
	in.Undated = true
	mustIssue(t, s, in)
	if out := mustIssue(t, s, in); !out.Repeated {
		t.Error("the same token made another certificate")
	}
}

func TestEndedSessionsIssueNothing(t *testing.T) { eachDatabase(t, testEndedSessionsIssueNothing) }

func testEndedSessionsIssueNothing(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	in := login(t, s, "a", "key")
	first := mustIssue(t, s, in)
	before, _ := s.Changes(t.Context())
	if err := s.EndSession(t.Context(), first.Session.ID, "logout"); err != nil {
		t.Fatal(err)
	}
	if after, _ := s.Changes(t.Context()); after == before {
		t.Error("other gateways do not hear of it")
	}
	clock.advance(time.Minute)
	wantIssueError(t, s, renewal(t, s, first, "b", clock.now()), ErrSessionEnded)
	wantIssueError(t, s, in, ErrSessionEnded)
	if session, _ := s.Session(t.Context(), first.Session.ID); session.EndReason != "logout" {
		t.Errorf("%+v", session)
	}
	late := login(t, s, "c", "key")
	late.Session.Deadline = clock.now()
	wantIssueError(t, s, late, ErrSessionEnded)
}

// A clock that is set back revives nothing.
func TestFaultClockRollbackRevivesNothing(t *testing.T) {
	eachDatabase(t, testFaultClockRollbackRevivesNothing)
}

func testFaultClockRollbackRevivesNothing(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	first := mustIssue(t, s, login(t, s, "a", "key"))
	clock.advance(13 * time.Hour)
	if _, err := s.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.advance(-6 * time.Hour)
	wantIssueError(t, s, renewal(t, s, first, "b", clock.now()), ErrSessionEnded)
	thief := login(t, s, "a", "thief")
	wantIssueError(t, s, thief, ErrRedeemed)
}

// Database down or failing over: no serial twice.
func TestFaultNoSerialTwice(t *testing.T) { eachDatabase(t, testFaultNoSerialTwice) }

func testFaultNoSerialTwice(t *testing.T, db database) {
	s := db.open(t, newClock())
	first := mustIssue(t, s, login(t, s, "a", "key"))
	in := login(t, s, "b", "key")
	in.Sign = func(time.Time, Session) (Certificate, error) { return first.Certificate, nil }
	if _, err := s.Issue(t.Context(), in); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the serial was taken twice: %v", err)
	}
	gateway := first.Certificate
	if err := s.RecordGatewayCertificate(t.Context(), gateway); err == nil {
		t.Error("the serial was taken twice")
	}
	gateway = newCertificate(t, time.Now(), time.Now().Add(time.Hour))
	if err := s.RecordGatewayCertificate(t.Context(), gateway); err != nil {
		t.Error(err)
	}
	if got, err := s.Certificate(t.Context(), gateway.Serial); err != nil || got.Kind != CertificateGateway || got.Session != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestChallengesServeOnce(t *testing.T) { eachDatabase(t, testChallengesServeOnce) }

func testChallengesServeOnce(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	serial := mustIssue(t, s, login(t, s, "a", "key")).Certificate.Serial
	put := func(c string) {
		if _, err := s.PutChallenge(t.Context(), []byte(c), serial, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	take := func(c string, serial auth.Serial, want error) {
		t.Helper()
		if err := s.TakeChallenge(t.Context(), []byte(c), serial); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", c, err, want)
		}
	}
	put("once")
	take("once", serial, nil)
	take("once", serial, ErrNotFound)
	take("never", serial, ErrNotFound)
	put("other's")
	take("other's", "00", ErrNotFound)
	take("other's", serial, ErrNotFound)
	put("late")
	clock.advance(time.Minute)
	take("late", serial, ErrNotFound)
	for i := range 40 {
		clock.advance(time.Millisecond)
		put(fmt.Sprint("many", i))
	}
	take("many0", serial, ErrNotFound)
	take("many39", serial, nil)
	if _, err := s.PutChallenge(t.Context(), []byte("x"), "00", time.Minute); err == nil {
		t.Error("a challenge for an unknown certificate was kept")
	}
}

func TestDeviceGrants(t *testing.T) { eachDatabase(t, testDeviceGrants) }

func testDeviceGrants(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	g := DeviceGrant{
		IDHash: "id", Provider: "corp", CSR: []byte("csr"), Device: "laptop", Client: "c", SealedCode: []byte("code"),
		Interval: 5 * time.Second, Expires: clock.now().Add(10 * time.Minute),
	}
	if err := s.PutGrant(t.Context(), g, 1); err != nil {
		t.Fatal(err)
	}
	second := g
	second.IDHash = "other"
	if err := s.PutGrant(t.Context(), second, 1); !errors.Is(err, ErrTooMany) {
		t.Errorf("above the limit: %v", err)
	}
	wantClaim := func(want error) {
		t.Helper()
		if err := s.ClaimPoll(t.Context(), "id"); !errors.Is(err, want) {
			t.Errorf("claim: %v, want %v", err, want)
		}
	}
	wantClaim(ErrTooSoon)
	clock.advance(5 * time.Second)
	wantClaim(nil)
	wantClaim(ErrTooSoon)
	if err := s.SlowGrant(t.Context(), "id", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	clock.advance(9 * time.Second)
	wantClaim(ErrTooSoon)

	in := login(t, s, "a", "key")
	in.Device = &DeviceIssuance{IDHash: "id", SealedRefresh: []byte("sealed")}
	mustIssue(t, s, in)
	got, err := s.Grant(t.Context(), "id")
	if err != nil || got.Redemption != "a" || string(got.SealedRefresh) != "sealed" || len(got.SealedCode) != 0 ||
		got.Interval != 10*time.Second || !got.Expires.Equal(g.Expires) {
		t.Errorf("%+v, %v", got, err)
	}
	in2 := login(t, s, "b", "key")
	in2.Device = in.Device
	if _, err := s.Issue(t.Context(), in2); !errors.Is(err, ErrRedeemed) {
		t.Errorf("completed twice: %v", err)
	}
	clock.advance(time.Minute)
	wantClaim(ErrTooSoon)
	if _, err := s.Grant(t.Context(), "unknown"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
