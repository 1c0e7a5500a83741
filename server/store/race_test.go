package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// two opens a database twice, as two gateways do.
func two(t *testing.T, db database) [2]*Store {
	t.Helper()
	return [2]*Store{db.open(t, nil), db.open(t, nil)}
}

// loginOf is an issuance for a new session of that subject.
func loginOf(t testing.TB, s *Store, subject, token string) Issuance {
	in := login(t, s, token, "key")
	in.User.ID, in.User.Subject = auth.NewUserID("https://idp", subject), subject
	return in
}

// Certificates and TLS: revocation evaded or lost. A lock and an issuance never
// overlap: whichever comes second sees the other, and has the later time.
func TestThreatLockAndIssuanceInBothOrders(t *testing.T) { eachDatabase(t, testLockAndIssuance) }

func testLockAndIssuance(t *testing.T, db database) {
	gateways := two(t, db)
	issuances := map[string]func(subject string) Issuance{
		"login": func(subject string) Issuance { return loginOf(t, gateways[0], subject, "of "+subject) },
		"renewal": func(subject string) Issuance {
			first := mustIssue(t, gateways[0], loginOf(t, gateways[0], subject, "first of "+subject))
			in := renewal(t, gateways[0], first, "renewal of "+subject, time.Now())
			in.User = loginOf(t, gateways[0], subject, "").User
			return in
		},
	}
	for name, issuance := range issuances {
		t.Run(name+" before the lock", func(t *testing.T) { issueThenLock(t, gateways, issuance("early-"+name)) })
		t.Run(name+" after the lock", func(t *testing.T) { lockThenIssue(t, gateways, issuance("late-"+name)) })
	}
}

// issueThenLock begins a logout while the issuance has not been committed.
func issueThenLock(t *testing.T, gateways [2]*Store, in Issuance) {
	var out LoggedOut
	done := make(chan struct{})
	sign := in.Sign
	in.Sign = func(at time.Time, session Session) (Certificate, error) {
		go func() {
			defer close(done)
			var err error
			if out, err = gateways[1].Logout(context.Background(), logoutOf(in)); err != nil {
				t.Error(err)
			}
		}()
		waitBlocked(t, gateways[1], done)
		return sign(at, session)
	}
	issued := mustIssue(t, gateways[0], in)
	<-done
	if out.Lock.Created.Before(issued.At) {
		t.Errorf("the lock is of %s, the issuance before it of %s", out.Lock.Created, issued.At)
	}
	wantCovered(t, gateways[1], out.Lock, issued)
}

// waitBlocked returns when a transaction of s waits for another one, or is done.
func waitBlocked(t *testing.T, s *Store, done <-chan struct{}) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		blocked := s.write.Stats().InUse > 0 // SQLite: it has its connection, and cannot begin
		if s.postgres != nil {
			query := "SELECT 'x' FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
			blocked = len(mustRead(t, s, query)) > 0
		}
		select {
		case <-done:
			return
		default:
			if blocked {
				return
			}
		}
	}
	t.Error("nothing waits")
}

func logoutOf(in Issuance) Logout {
	return Logout{TokenHash: "logout " + in.Token, Provider: "corp", User: in.User.ID, LockID: "lock " + in.Token, LockFor: time.Hour}
}

// wantCovered checks that the lock holds against the session, and ended it.
func wantCovered(t *testing.T, s *Store, l Lock, issued Issued) {
	t.Helper()
	session, err := s.Session(t.Context(), issued.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	subject := LockSubject{User: session.User, Session: session.ID, Provider: session.Provider, GroupsKnown: true, IssuedAt: session.Created}
	if !l.Covers(subject, l.Created) || session.Ended.IsZero() {
		t.Errorf("not covered: session of %s, ended %s; lock %+v", session.Created, session.Ended, l)
	}
}

// lockThenIssue begins the issuance while the lock has not been committed.
func lockThenIssue(t *testing.T, gateways [2]*Store, in Issuance) {
	var failed error
	done := make(chan struct{})
	lock := Lock{ID: "lock " + in.Token, Kind: LockUser, Target: string(in.User.ID), Message: "stolen laptop"}
	err := gateways[1].inTx(t.Context(), orderLock, func(tx *tx) error {
		lock.IssuedBefore = tx.now
		go func() {
			defer close(done)
			_, failed = gateways[0].Issue(context.Background(), in)
		}()
		waitBlocked(t, gateways[0], done)
		return tx.addLock(t.Context(), &lock)
	})
	if err != nil {
		t.Fatal(err)
	}
	<-done
	var locked *LockedError
	if !errors.As(failed, &locked) {
		t.Errorf("issued after the lock: %v", failed)
	}
}

// Certificates and TLS: revocation evaded or lost. Whatever the timing, what was issued is covered, or was refused.
func TestThreatLockRacesIssuance(t *testing.T) { eachDatabase(t, testLockRacesIssuance) }

func testLockRacesIssuance(t *testing.T, db database) {
	gateways := two(t, db)
	var before, after int
	for i := range 40 {
		subject := fmt.Sprint("user", i)
		first := mustIssue(t, gateways[0], loginOf(t, gateways[0], subject, "first of "+subject))
		again := renewal(t, gateways[0], first, "renewal of "+subject, time.Now())
		again.User = loginOf(t, gateways[0], subject, "").User
		fresh := loginOf(t, gateways[0], subject, "second of "+subject)

		var wg sync.WaitGroup
		var out LoggedOut
		outcomes := make([]struct {
			Issued
			error
		}, 2)
		wg.Go(func() { outcomes[0].Issued, outcomes[0].error = gateways[0].Issue(context.Background(), again) })
		wg.Go(func() { outcomes[1].Issued, outcomes[1].error = gateways[i%2].Issue(context.Background(), fresh) })
		wg.Go(func() {
			var err error
			if out, err = gateways[1].Logout(context.Background(), logoutOf(fresh)); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		for _, o := range outcomes {
			var locked *LockedError
			switch {
			case o.error == nil:
				before++
				wantCovered(t, gateways[0], out.Lock, o.Issued)
			case errors.As(o.error, &locked), errors.Is(o.error, ErrSessionEnded):
				after++
			default:
				t.Error(o.error)
			}
		}
	}
	t.Logf("%d issuances came before the lock, %d after", before, after)
}

// A session that is being ended is not renewed beside it.
func TestThreatEndRacesRenewal(t *testing.T) { eachDatabase(t, testEndRacesRenewal) }

func testEndRacesRenewal(t *testing.T, db database) {
	gateways := two(t, db)
	first := mustIssue(t, gateways[0], login(t, gateways[0], "first", "key"))
	in := renewal(t, gateways[0], first, "renewal", time.Now())
	sign := in.Sign
	var wg sync.WaitGroup
	in.Sign = func(at time.Time, session Session) (Certificate, error) {
		wg.Go(func() {
			if err := gateways[1].EndSession(context.Background(), session.ID, "test"); err != nil {
				t.Error(err)
			}
		})
		return sign(at, session)
	}
	renewed := mustIssue(t, gateways[0], in)
	wg.Wait()
	session, err := gateways[0].Session(t.Context(), first.Session.ID)
	if err != nil || session.Ended.Before(renewed.At) {
		t.Errorf("ended %s, renewed %s, %v", session.Ended, renewed.At, err)
	}
	wantIssueError(t, gateways[0], renewal(t, gateways[0], first, "late", time.Now()), ErrSessionEnded)
}

// once runs f many times at once, on both gateways in turn, and returns how often
// it came to nil; every other error must be want.
func once(t *testing.T, gateways [2]*Store, n int, want error, f func(s *Store, i int) error) int {
	t.Helper()
	var wg sync.WaitGroup
	var done atomic.Int32
	for i := range n {
		wg.Go(func() {
			switch err := f(gateways[i%2], i); {
			case err == nil:
				done.Add(1)
			case !errors.Is(err, want):
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	wg.Wait()
	return int(done.Load())
}

// Database down or failing over: no serial twice, whoever issues.
func TestFaultNoSerialTwiceAtTwoGateways(t *testing.T) { eachDatabase(t, testNoSerialTwice) }

func testNoSerialTwice(t *testing.T, db database) {
	gateways := two(t, db)
	cert := newCertificate(t, time.Now(), time.Now().Add(time.Hour))
	ins := make([]Issuance, 20)
	for i := range ins {
		ins[i] = login(t, gateways[0], fmt.Sprint("token", i), "key")
		ins[i].Sign = func(time.Time, Session) (Certificate, error) { return cert, nil }
	}
	if n := once(t, gateways, len(ins), ErrUnavailable, func(s *Store, i int) error {
		_, err := s.Issue(context.Background(), ins[i])
		return err
	}); n != 1 {
		t.Errorf("the serial was issued %d times", n)
	}
}

func TestPolicyChangesDoNotOverwriteEachOther(t *testing.T) { eachDatabase(t, testPolicyChanges) }

func testPolicyChanges(t *testing.T, db database) {
	gateways := two(t, db)
	ctx := context.Background()
	put := func(s *Store, digest string, expected int64) error {
		_, err := s.PutPolicy(ctx, PolicyVersion{Digest: digest, Source: "managed", Author: digest, Comment: "why"}, expected)
		var conflict *ConflictError
		if errors.As(err, &conflict) {
			return errConflict
		}
		return err
	}
	for version := range int64(3) {
		n := once(t, gateways, 10, errConflict, func(s *Store, i int) error { return put(s, fmt.Sprint(version, i), version) })
		if n != 1 {
			t.Errorf("version %d was made %d times", version+1, n)
		}
	}
	head, err := gateways[0].HeadPolicy(ctx)
	if err != nil || head.Number != 3 || head.Author != head.Digest || head.Comment != "why" || head.Accepted.IsZero() {
		t.Errorf("%+v, %v", head, err)
	}
	var conflict *ConflictError
	if _, err := gateways[0].PutPolicy(ctx, PolicyVersion{Digest: "x"}, 1); !errors.As(err, &conflict) || conflict.Current != 3 {
		t.Errorf("%v", err)
	}
	before, _ := gateways[1].Changes(ctx)
	if again, err := gateways[0].PutPolicy(ctx, PolicyVersion{Digest: head.Digest}, 3); err != nil || again.Number != 3 {
		t.Errorf("the same policy again: %+v, %v", again, err)
	}
	if after, _ := gateways[1].Changes(ctx); after != before {
		t.Error("nothing changed, and gateways are told")
	}
	if p, err := gateways[1].PolicyByNumber(ctx, 2); err != nil || p.Number != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := gateways[1].PolicyByNumber(ctx, 4); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

var errConflict = errors.New("conflict")

func TestParallelRequests(t *testing.T) { eachDatabase(t, testParallelRequests) }

func testParallelRequests(t *testing.T, db database) {
	gateways := two(t, db)
	ctx := context.Background()
	n := once(t, gateways, 30, ErrTooMany, func(s *Store, i int) error {
		_, err := s.PutRequest(ctx, Request{ID: fmt.Sprint("r", i), User: "ada", Service: "db", For: time.Hour})
		return err
	})
	if n != maxPending {
		t.Errorf("%d requests wait", n)
	}
	waiting, err := gateways[0].Requests(ctx, RequestFilter{State: RequestPending}, 100)
	if err != nil || len(waiting) != maxPending {
		t.Fatalf("%d, %v", len(waiting), err)
	}
	n = once(t, gateways, 20, ErrDecided, func(s *Store, i int) error {
		_, err := s.DecideRequest(ctx, waiting[0].ID, i%3 == 0, fmt.Sprint("admin", i), "admin", "", time.Hour)
		return err
	})
	if n != 1 {
		t.Errorf("decided %d times", n)
	}
}

func TestParallelUseOfWhatServesOnce(t *testing.T) { eachDatabase(t, testServesOnce) }

func testServesOnce(t *testing.T, db database) {
	gateways := two(t, db)
	ctx := context.Background()
	serial := mustIssue(t, gateways[0], login(t, gateways[0], "a", "key")).Certificate.Serial
	if _, err := gateways[0].PutChallenge(ctx, []byte("c"), serial, time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := once(t, gateways, 20, ErrNotFound, func(s *Store, _ int) error {
		return s.TakeChallenge(ctx, []byte("c"), serial)
	}); n != 1 {
		t.Errorf("a challenge served %d times", n)
	}
	if n := once(t, gateways, 20, errConflict, func(s *Store, _ int) error {
		out, err := s.Logout(ctx, Logout{TokenHash: "jti", User: "u", LockID: "l", LockFor: time.Hour})
		if err == nil && out.Repeated {
			err = errConflict
		}
		return err
	}); n != 1 {
		t.Errorf("a logout token served %d times", n)
	}
	now, err := gateways[0].Now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n := once(t, gateways, 20, ErrTooMany, func(s *Store, i int) error {
		return s.PutGrant(ctx, DeviceGrant{IDHash: fmt.Sprint(i), CSR: []byte{1}, SealedCode: []byte{1}, Expires: now.Add(time.Hour)}, 5)
	}); n != 5 {
		t.Errorf("%d device logins with a limit of 5", n)
	}
}
