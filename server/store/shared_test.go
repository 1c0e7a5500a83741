package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/google/go-cmp/cmp"
)

func TestUsersAreRemembered(t *testing.T) { eachDatabase(t, testUsers) }

func testUsers(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	in := login(t, s, "a", "key")
	in.User.Email, in.User.EmailTrusted = "Ada@corp.example", true
	in.User.Groups, in.User.GroupsKnown, in.User.ACR, in.User.AMR = []string{"it", "ops"}, true, "mfa", []string{"pwd", "otp"}
	first := mustIssue(t, s, in)
	want := in.User
	want.FirstSeen, want.LastSeen, want.LastLogin = clock.now(), clock.now(), auth.LoginBrowser
	if got, err := s.User(t.Context(), in.User.ID); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	// A refreshed token without name and e-mail address, and with other groups.
	clock.advance(time.Minute)
	again := renewal(t, s, first, "b", clock.now())
	again.User.Name = ""
	mustIssue(t, s, again)
	want.LastSeen = clock.now()
	want.Groups, want.GroupsKnown, want.ACR, want.AMR = nil, false, "", nil
	if got, err := s.User(t.Context(), in.User.ID); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("after a renewal: %v\n%s", err, cmp.Diff(want, got))
	}
	for email, n := range map[string]int{"ada@CORP.example": 1, "ada": 0, "": 0} {
		if list, err := s.UsersByEmail(t.Context(), email, 10); err != nil || len(list) != n {
			t.Errorf("%s: %d, %v", email, len(list), err)
		}
	}
	if _, err := s.User(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestStepUp(t *testing.T) { eachDatabase(t, testStepUp) }

func testStepUp(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	in := login(t, s, "a", "key")
	in.Session.ProviderSID = "sid"
	first := mustIssue(t, s, in)
	stepUp := func(token string, authTime time.Time) Issuance {
		clock.advance(time.Minute)
		in := renewal(t, s, first, token, clock.now())
		in.StepUp, in.Session.AuthTime, in.Session.Nonce = true, authTime, "n2"
		return in
	}
	fresh := clock.now().Add(time.Minute)
	out := mustIssue(t, s, stepUp("b", fresh))
	want := first.Session
	want.AuthTime, want.TokenIssuedAt, want.Nonce = fresh, clock.now(), "n2"
	if out.Session != want {
		t.Error(cmp.Diff(want, out.Session))
	}
	if stored, err := s.Session(t.Context(), want.ID); err != nil || stored != want {
		t.Errorf("%+v, %v", stored, err)
	}
	wantIssueError(t, s, stepUp("c", fresh.Add(-time.Second)), ErrTokenOld)
	// A plain renewal does not touch it.
	clock.advance(time.Minute)
	if out := mustIssue(t, s, renewal(t, s, first, "d", clock.now())); !out.Session.AuthTime.Equal(fresh) {
		t.Errorf("a renewal set it to %s", out.Session.AuthTime)
	}
}

// Login: a logout at the provider ends what began with that login, and a token
// from before it begins nothing after it.
func TestThreatTokenFromBeforeALogout(t *testing.T) { eachDatabase(t, testLogout) }

func testLogout(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	withSID := func(token, sid string) Issuance {
		in := login(t, s, token, "key")
		in.Session.ProviderSID = sid
		return in
	}
	one, two := mustIssue(t, s, withSID("a", "sid1")), mustIssue(t, s, withSID("b", "sid2"))
	late := withSID("c", "sid1")
	clock.advance(time.Minute)
	lateUser := login(t, s, "d", "key") // its token is from before the second logout
	out, err := s.Logout(t.Context(), Logout{TokenHash: "1", Provider: "corp", SID: "sid1", LockID: "l1", LockFor: time.Hour, Message: "stolen laptop"})
	if err != nil || !slices.Equal(out.Ended, []auth.SessionID{one.Session.ID}) || out.Lock.Kind != LockLogin {
		t.Errorf("%+v, %v", out, err)
	}
	wantLocked(t, s, late, true)
	if again, err := s.Logout(t.Context(), Logout{TokenHash: "1", User: two.Session.User, LockID: "l2"}); err != nil || !again.Repeated || again.Ended != nil {
		t.Errorf("the same token again: %+v, %v", again, err)
	}
	clock.advance(time.Second)
	out, err = s.Logout(t.Context(), Logout{TokenHash: "2", Provider: "corp", User: two.Session.User, LockID: "l3", LockFor: time.Hour, Message: "stolen laptop"})
	if err != nil || !slices.Equal(out.Ended, []auth.SessionID{two.Session.ID}) {
		t.Errorf("%+v, %v", out, err)
	}
	clock.advance(time.Second)
	wantLocked(t, s, lateUser, true)
	wantLocked(t, s, withSID("e", "sid3"), false)
	if ended, err := s.Session(t.Context(), one.Session.ID); err != nil || ended.Ended.IsZero() {
		t.Errorf("%+v, %v", ended, err)
	}
	if list, err := s.SessionsOf(t.Context(), two.Session.User, 10); err != nil || len(list) != 3 {
		t.Errorf("%d sessions, %v", len(list), err)
	}
	if list, err := s.CertificatesOfUser(t.Context(), two.Session.User, 2); err != nil || len(list) != 2 {
		t.Errorf("%d certificates, %v", len(list), err)
	}
	if _, err := s.Logout(t.Context(), Logout{TokenHash: "x"}); err == nil {
		t.Error("a logout of nobody")
	}
}

func TestLocksEndWhatTheyCover(t *testing.T) { eachDatabase(t, testEndCovered) }

func testEndCovered(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	first := mustIssue(t, s, login(t, s, "a", "key"))
	for _, c := range []struct {
		lock Lock
		want int
	}{
		{Lock{Kind: LockDevice, Target: "laptop", IssuedBefore: clock.now().Add(-1)}, 0},
		{Lock{Kind: LockDevice, Target: "other"}, 0},
		{Lock{Kind: LockGroup, Target: "corp/engineering"}, 0},
		{Lock{Kind: LockLogin, Target: "corp/"}, 0},
		{Lock{Kind: LockCertificate, Target: string(first.Certificate.Serial), Session: first.Session.ID}, 1},
		{Lock{Kind: LockDevice, Target: "laptop"}, 0}, // it has ended
	} {
		err := s.inTx(t.Context(), orderLock, func(tx *tx) error {
			ended, err := tx.endCovered(t.Context(), c.lock, "test")
			if len(ended) != c.want {
				t.Errorf("%+v ended %v", c.lock, ended)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestRequests(t *testing.T) { eachDatabase(t, testRequests) }

func testRequests(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	put := func(id string) Request {
		clock.advance(time.Second)
		r, err := s.PutRequest(t.Context(), Request{
			ID: id, User: "ada", Provider: "corp", Name: "Ada", Email: "ada@corp.example", Service: "db", Reason: "an incident", For: 2 * time.Hour,
		})
		if err != nil || r.State != RequestPending {
			t.Fatalf("%+v, %v", r, err)
		}
		return r
	}
	want := put("a")
	if got, err := s.Request(t.Context(), "a"); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	changes, _ := s.Changes(t.Context())
	decide := func(id string, approve bool, by auth.UserID, want error) Request {
		t.Helper()
		r, err := s.DecideRequest(t.Context(), id, approve, "root-admin", by, "ok", time.Hour)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
		return r
	}
	decide("a", true, "ada", ErrOwnRequest)
	decide("unknown", true, "bob", ErrNotFound)
	granted := decide("a", true, "bob", nil)
	if !granted.Until.Equal(clock.now().Add(time.Hour)) || granted.DecidedBy != "root-admin" || granted.Note != "ok" {
		t.Errorf("%+v", granted)
	}
	decide("a", false, "bob", ErrDecided)
	if after, _ := s.Changes(t.Context()); after == changes {
		t.Error("other gateways do not hear of it")
	}
	put("b")
	if r := decide("b", false, "", nil); r.State != RequestDenied || !r.Until.IsZero() {
		t.Errorf("%+v", r)
	}
	put("c")
	wantStates(t, s, map[string]RequestState{"a": RequestApproved, "b": RequestDenied, "c": RequestPending})
	if _, err := s.WithdrawRequest(t.Context(), "c", "bob"); !errors.Is(err, ErrNotFound) {
		t.Errorf("somebody else withdrew it: %v", err)
	}
	if _, err := s.WithdrawRequest(t.Context(), "c", "ada"); err != nil {
		t.Error(err)
	}
	decide("c", true, "bob", ErrDecided)
	put("d")
	decide("d", true, "bob", nil)
	if ended, err := s.EndRequest(t.Context(), "d", "root-admin"); err != nil || !ended.Until.Equal(clock.now()) {
		t.Errorf("%+v, %v", ended, err)
	}
	grants, err := s.ActiveGrants(t.Context())
	if err != nil || len(grants) != 1 || grants[0] != granted {
		t.Errorf("%+v, %v", grants, err)
	}
	// Time ends a grant.
	clock.advance(time.Hour)
	wantStates(t, s, map[string]RequestState{"a": RequestEnded, "b": RequestDenied, "c": RequestWithdrawn, "d": RequestEnded})
	if grants, err := s.ActiveGrants(t.Context()); err != nil || len(grants) != 0 {
		t.Errorf("%+v, %v", grants, err)
	}
	if _, err := s.EndRequest(t.Context(), "a", "root-admin"); !errors.Is(err, ErrDecided) {
		t.Errorf("ended twice: %v", err)
	}
	clock.advance(defaultRetention + time.Hour)
	if done, err := s.Cleanup(t.Context()); err != nil || done.Requests != 4 {
		t.Errorf("%+v, %v", done, err)
	}
}

func wantStates(t *testing.T, s *Store, want map[string]RequestState) {
	t.Helper()
	list, err := s.Requests(t.Context(), RequestFilter{User: "ada"}, 10)
	got := map[string]RequestState{}
	for _, r := range list {
		got[r.ID] = r.State
		same, err := s.Requests(t.Context(), RequestFilter{State: r.State}, 10)
		if err != nil || !slices.Contains(same, r) {
			t.Errorf("state %s: %+v, %v", r.State, same, err)
		}
	}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
}

func TestPutRequestRefusesNonsense(t *testing.T) {
	s := open(t, newPath(t), nil)
	for _, r := range []Request{{}, {ID: "a", User: "u", Service: "s"}, {ID: "a", User: "u", For: time.Hour}, {User: "u", Service: "s", For: time.Hour}} {
		if _, err := s.PutRequest(t.Context(), r); err == nil {
			t.Errorf("%+v was recorded", r)
		}
	}
}

func TestGatewaysAndTheirConnections(t *testing.T) { eachDatabase(t, testGateways) }

func testGateways(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	ctx := t.Context()
	beat := func(id auth.GatewayID) {
		t.Helper()
		if err := s.Beat(ctx, Gateway{ID: id, Address: "10.0.0.1:443", Version: "1", PolicyDigest: "d", Started: clock.now(), Sessions: 3, Streams: 7}); err != nil {
			t.Fatal(err)
		}
	}
	beat("a")
	beat("b")
	list, err := s.Gateways(ctx)
	want := Gateway{ID: "a", Address: "10.0.0.1:443", Version: "1", PolicyDigest: "d", Started: clock.now(), Sessions: 3, Streams: 7, LastSeen: clock.now()}
	if err != nil || len(list) != 2 || list[0] != want {
		t.Errorf("%+v, %v", list, err)
	}
	var many []Live
	for i := range 700 {
		many = append(many, Live{
			ID: uint64(i), User: auth.UserID(fmt.Sprint("u", i%7)), Name: "Ada", Session: auth.SessionID(fmt.Sprint("s", i)), Device: "laptop",
			Serial: "00", Remote: "192.0.2.1:5", Client: "culvert \x00\xff", Since: clock.now().Add(time.Duration(i) * time.Second), Streams: i,
		})
	}
	many[699].ID = 1<<64 - 1
	for range 2 { // the second time in place of the first
		if err := s.PutLive(ctx, "a", many); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutLive(ctx, "b", []Live{{ID: 1, User: "u1", BytesIn: 1 << 40}}); err != nil {
		t.Fatal(err)
	}
	wantLive := func(f LiveFilter, n int) []Live {
		t.Helper()
		list, err := s.LiveAll(ctx, f, 1000)
		if err != nil || len(list) != n {
			t.Errorf("%+v: %d, %v; want %d", f, len(list), err, n)
		}
		return list
	}
	all := wantLive(LiveFilter{}, 701)
	if last := all[700]; last.ID != 1<<64-1 || last.Client != "culvert \uFFFD\uFFFD" || !last.Updated.Equal(clock.now()) {
		t.Errorf("%+v", last)
	}
	wantLive(LiveFilter{User: "u1"}, 101)
	wantLive(LiveFilter{User: "u1", Gateway: "b"}, 1)
	wantLive(LiveFilter{Session: "s5"}, 1)
	wantLive(LiveFilter{Device: "laptop"}, 700)
	if err := s.DropLive(ctx, "a", []uint64{0, 1<<64 - 1, 12345}); err != nil {
		t.Fatal(err)
	}
	wantLive(LiveFilter{}, 699)
	// A gateway that is silent is not there any more.
	clock.advance(GatewayAlive)
	beat("b")
	wantLive(LiveFilter{}, 1)
	if done, err := s.Cleanup(ctx); err != nil || done.Live != 698 {
		t.Errorf("%+v, %v", done, err)
	}
	if err := s.ClearLive(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	wantLive(LiveFilter{}, 0)
	// One that stops is off the list at once, and back when it starts again.
	for _, n := range []int{1, 2} {
		if n == 2 {
			beat("b")
		} else if err := s.Leave(ctx, "b"); err != nil {
			t.Fatal(err)
		}
		if list, err := s.Gateways(ctx); err != nil || len(list) != n {
			t.Errorf("%+v, %v; want %d", list, err, n)
		}
	}
	clock.advance(31 * 24 * time.Hour)
	if done, err := s.Cleanup(ctx); err != nil || done.Gateways != 2 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestDevices(t *testing.T) { eachDatabase(t, testDevices) }

func testDevices(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	put := func(subject, token string, device auth.DeviceID, client string) Issued {
		in := loginOf(t, s, subject, token)
		in.Session.Device, in.Session.Client = device, client
		return mustIssue(t, s, in)
	}
	began := clock.now()
	first := put("ada", "1", "laptop", "culvert 1")
	put("bob", "2", "laptop", "culvert 1")
	put("bob", "3", "phone", "culvert 1")
	clock.advance(time.Minute)
	put("ada", "4", "laptop", "culvert 2")
	if err := s.EndSession(t.Context(), first.Session.ID, "test"); err != nil {
		t.Fatal(err)
	}
	list, err := s.Devices(t.Context(), DeviceFilter{User: first.Session.User}, 10)
	want := []Device{{
		ID: "laptop", User: first.Session.User, Provider: "corp", Name: "Ada", FirstSeen: began, LastSeen: clock.now(), Client: "culvert 2", Sessions: 1,
	}}
	if err != nil || cmp.Diff(want, list) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, list))
	}
	var seen []string
	for f := (DeviceFilter{}); ; {
		page, err := s.Devices(t.Context(), f, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		seen = append(seen, string(page[0].ID)+" "+string(page[0].User))
		f.After, f.AfterUser = page[0].ID, page[0].User
	}
	if len(seen) != 3 || !slices.IsSorted(seen) {
		t.Errorf("pages: %q", seen)
	}
	if list, err := s.Devices(t.Context(), DeviceFilter{Device: "laptop"}, 10); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestCheckpointsNeverGoBack(t *testing.T) { eachDatabase(t, testCheckpoints) }

func testCheckpoints(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	put := func(log string, size int64, note string, want error) {
		t.Helper()
		clock.advance(time.Second)
		err := s.PutCheckpoint(context.Background(), Checkpoint{Gateway: "a", Log: log, Size: size, Note: note})
		if !errors.Is(err, want) {
			t.Errorf("%s %d: %v, want %v", log, size, err, want)
		}
	}
	put("one", 10, "ten", nil)
	put("one", 10, "ten", nil)
	put("one", 10, "another ten", ErrOlderCheckpoint)
	put("one", 9, "nine", ErrOlderCheckpoint)
	put("two", 1, "one", nil)
	put("one", 11, "eleven", nil)
	want := Checkpoint{Gateway: "a", Log: "one", Size: 11, Note: "eleven", Time: clock.now()}
	if list, err := s.Checkpoints(t.Context(), "b", 10); err != nil || len(list) != 0 {
		t.Errorf("of another gateway: %+v, %v", list, err)
	}
	if list, err := s.Checkpoints(t.Context(), "a", 10); err != nil || len(list) != 2 || list[0] != want {
		t.Errorf("%+v, %v", list, err)
	}
}
