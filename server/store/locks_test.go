package store

import (
	"errors"
	"testing"
	"time"
)

func TestLocksRefuseIssuance(t *testing.T) { eachDatabase(t, testLocksRefuseIssuance) }

func testLocksRefuseIssuance(t *testing.T, db database) {
	for _, c := range []struct {
		name   string
		lock   func(Issued) Lock
		login  bool // whether a fresh login is refused as well
		repeat bool
	}{
		{"user", func(i Issued) Lock { return Lock{Kind: LockUser, Target: string(i.Session.User)} }, true, true},
		{"device", func(i Issued) Lock { return Lock{Kind: LockDevice, Target: "laptop"} }, true, true},
		{"group", func(Issued) Lock { return Lock{Kind: LockGroup, Target: "corp/engineering"} }, true, true},
		{"session", func(i Issued) Lock { return Lock{Kind: LockSession, Target: string(i.Session.ID)} }, false, true},
		{"certificate", func(i Issued) Lock { return Lock{Kind: LockCertificate, Target: string(i.Certificate.Serial)} }, false, true},
		{"other group", func(Issued) Lock { return Lock{Kind: LockGroup, Target: "partner/engineering"} }, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := newClock()
			s := db.fresh(t).open(t, clock)
			in := login(t, s, "a", "key")
			first := mustIssue(t, s, in)
			l := c.lock(first)
			l.ID, l.Message = "lock", "stolen laptop"
			if _, err := s.AddLock(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			clock.advance(time.Minute)
			wantLocked(t, s, in, c.repeat)
			wantLocked(t, s, renewal(t, s, first, "b", clock.now()), c.repeat)
			wantLocked(t, s, login(t, s, "c", "key"), c.login)

			if err := s.RemoveLock(t.Context(), "lock"); err != nil {
				t.Fatal(err)
			}
			clock.advance(time.Minute)
			wantLocked(t, s, renewal(t, s, first, "d", clock.now()), false)
			if err := s.RemoveLock(t.Context(), "lock"); !errors.Is(err, ErrNotFound) {
				t.Errorf("lifted twice: %v", err)
			}
		})
	}
}

func wantLocked(t *testing.T, s *Store, in Issuance, want bool) {
	t.Helper()
	_, err := s.Issue(t.Context(), in)
	var locked *LockedError
	if errors.As(err, &locked) != want || (err != nil && !want) {
		t.Errorf("token %s: %v; locked must be %v", in.Token, err, want)
	}
	if want && locked != nil && locked.Lock.Message != "stolen laptop" {
		t.Errorf("lock %+v", locked.Lock)
	}
}

// Certificates and TLS: revocation evaded or lost. A lock with a cut-off covers the
// renewals of what was issued before it, and not a login after it.
func TestThreatRenewalDoesNotStepOverACutOff(t *testing.T) {
	eachDatabase(t, testThreatRenewalDoesNotStepOverACutOff)
}

func testThreatRenewalDoesNotStepOverACutOff(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	first := mustIssue(t, s, login(t, s, "a", "key"))
	lock := Lock{ID: "l", Kind: LockUser, Target: string(first.Session.User), Message: "stolen laptop", IssuedBefore: clock.now()}
	if _, err := s.AddLock(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	wantLocked(t, s, login(t, s, "same millisecond", "key"), true)
	clock.advance(time.Minute)
	wantLocked(t, s, renewal(t, s, first, "b", clock.now()), true)
	wantLocked(t, s, login(t, s, "c", "key"), false)
}

// Certificates and TLS: clean-up never drops an unexpired revocation, nor a
// redemption that could be replayed.
func TestThreatCleanupLosesNothingInForce(t *testing.T) {
	eachDatabase(t, testThreatCleanupLosesNothingInForce)
}

func testThreatCleanupLosesNothingInForce(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	in := login(t, s, "a", "key")
	in.TokenExpires = clock.now().Add(30 * 24 * time.Hour)
	mustIssue(t, s, in)
	short := login(t, s, "short", "key")
	first := mustIssue(t, s, short)
	for id, expires := range map[string]time.Time{
		"forever": {}, "long": clock.now().Add(200 * 24 * time.Hour), "short": clock.now().Add(time.Hour),
	} {
		if _, err := s.AddLock(t.Context(), Lock{ID: id, Kind: LockDevice, Target: "stolen", Expires: expires}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.PutChallenge(t.Context(), []byte("c"), first.Certificate.Serial, time.Minute); err != nil {
		t.Fatal(err)
	}
	clock.advance(25 * 24 * time.Hour)
	done, err := s.Cleanup(t.Context())
	if want := (Cleaned{Challenges: 1, Redemptions: 1, Locks: 1}); err != nil || done != want {
		t.Errorf("cleaned %+v, %v; want %+v", done, err, want)
	}
	other := in
	other.Key = "thief"
	wantIssueError(t, s, other, ErrRedeemed)

	clock.advance(100 * 24 * time.Hour)
	done, err = s.Cleanup(t.Context())
	if want := (Cleaned{Redemptions: 1, Certificates: 2, Sessions: 2}); err != nil || done != want {
		t.Errorf("cleaned %+v, %v; want %+v", done, err, want)
	}
	locks, err := s.Locks(t.Context())
	if err != nil || len(locks) != 2 {
		t.Errorf("locks %+v, %v", locks, err)
	}
}

func TestLockCovers(t *testing.T) {
	now := newClock().now()
	me := LockSubject{
		User: "u", Device: "d", Session: "s", Serial: "c", Provider: "corp", Groups: []string{"it"}, GroupsKnown: true, IssuedAt: now,
	}
	unknown := me
	unknown.Groups, unknown.GroupsKnown = nil, false
	for _, c := range []struct {
		lock    Lock
		subject LockSubject
		want    bool
	}{
		{Lock{Kind: LockUser, Target: "u"}, me, true},
		{Lock{Kind: LockUser, Target: "d"}, me, false},
		{Lock{Kind: LockCertificate, Target: "other", Session: "s"}, me, true},
		{Lock{Kind: LockCertificate, Target: "other"}, LockSubject{}, false},
		{Lock{Kind: LockGroup, Target: "corp/it"}, me, true},
		{Lock{Kind: LockGroup, Target: "it"}, me, false},
		{Lock{Kind: LockGroup, Target: "corp/sales"}, me, false},
		{Lock{Kind: LockGroup, Target: "corp/sales"}, unknown, true},
		{Lock{Kind: LockGroup, Target: "corporate/sales"}, unknown, false},
		{Lock{Kind: "moon phase", Target: "full"}, me, true},
		{Lock{Kind: LockUser, Target: "u", Expires: now}, me, false},
		{Lock{Kind: LockUser, Target: "u", Expires: now.Add(1)}, me, true},
		{Lock{Kind: LockUser, Target: "u", IssuedBefore: now}, me, true},
		{Lock{Kind: LockUser, Target: "u", IssuedBefore: now.Add(-1)}, me, false},
	} {
		if got := c.lock.Covers(c.subject, now); got != c.want {
			t.Errorf("%+v covers: %v", c.lock, got)
		}
	}
}

func TestAddLockRefusesNonsense(t *testing.T) { eachDatabase(t, testAddLockRefusesNonsense) }

func testAddLockRefusesNonsense(t *testing.T, db database) {
	s := db.open(t, nil)
	for _, l := range []Lock{{}, {ID: "a", Kind: LockUser}, {ID: "a", Kind: "moon", Target: "x"}, {Kind: LockUser, Target: "x"}} {
		if _, err := s.AddLock(t.Context(), l); err == nil {
			t.Errorf("%+v was added", l)
		}
	}
	if _, err := s.AddLock(t.Context(), Lock{ID: "a", Kind: LockCertificate, Target: "00"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown certificate: %v", err)
	}
}
