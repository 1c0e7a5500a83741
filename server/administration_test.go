package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/localsock"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// asAdmin asks the administration API through streams of a session.
func asAdmin(t *testing.T, session *tunnel.Session) *adminapi.Client {
	t.Helper()
	return apiClient(t, func(ctx context.Context, service string) (net.Conn, error) {
		return session.Open(ctx, wire.ServiceTarget(wire.KindTCP, service), tunnel.OpenOptions{Wait: true})
	})
}

// asRoot asks it over the socket.
func (r *running) asRoot() *adminapi.Client {
	r.t.Helper()
	return apiClient(r.t, func(ctx context.Context, _ string) (net.Conn, error) {
		return localsock.Dial(ctx, filepath.Join(r.cfg.StateDir, AdminSocket))
	})
}

func apiClient(t *testing.T, dial func(ctx context.Context, service string) (net.Conn, error)) *adminapi.Client {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		service, _, _ := strings.Cut(addr, ":")
		return dial(ctx, service)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &adminapi.Client{HTTP: &http.Client{Transport: transport, Timeout: patience}}
}

func owners(cfg *Config) {
	cfg.Admin.Roles = []RoleConfig{{Role: "owner", Groups: []string{"admins"}}}
}

// up logs in and connects.
func (r *running) connect(account string) *tunnel.Session {
	r.t.Helper()
	session, err := mustLogin(r.t, r, account).up(r.t.Context(), r)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { session.Close() })
	return session
}

func TestAdministrationThroughTheTunnel(t *testing.T) {
	r := everything(t, owners).serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	me, err := asAdmin(t, r.connect("root-admin")).Whoami(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(me.Roles, adminapi.RoleOwner) {
		t.Errorf("root-admin is %+v, want an owner", me)
	}
	ada := r.connect("ada")
	var refusal *wire.Refusal
	if _, err := asAdmin(t, ada).Whoami(ctx); !errors.As(err, &refusal) || refusal.Code != wire.CodeNoSuchService {
		t.Errorf("ada, who has no role: %v, want no such service", err)
	}
	if _, err := asAdmin(t, ada).OwnRequests(ctx, adminapi.OwnRequestQuery{}); err != nil {
		t.Errorf("ada's own requests: %v", err)
	}
}

// What the database was told two seconds ago is not what this gateway says of itself.
func TestOwnConnectionsAreAsTheyAreNow(t *testing.T) {
	told := []store.Live{
		{Gateway: "gw1", ID: 1, Session: "cut"}, {Gateway: "gw1", ID: 2, Session: "open"}, {Gateway: "gw1", ID: 3, Session: "of a process before"},
		{Gateway: "gw2", ID: 1, Session: "elsewhere", Streams: 7},
	}
	own := []session.Info{
		{ID: 2, Identity: auth.Identity{Session: "open"}, BytesIn: 5, BytesOut: 6, Streams: make([]session.StreamInfo, 3)},
		{ID: 3, Identity: auth.Identity{Session: "another"}},
	}
	want := []store.Live{{Gateway: "gw1", ID: 2, Session: "open", Streams: 3, BytesIn: 5, BytesOut: 6}, told[3]}
	if got := byNow("gw1", told, own); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Who loses a role loses the connections that were opened with it.
func TestRoleTakenAwayCutsItsStreams(t *testing.T) {
	i := everything(t, owners)
	next := *i.cfg
	r := i.serve(Options{Reread: func() (*Config, error) { return &next, nil }})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session := r.connect("root-admin")
	stream, err := session.Open(ctx, wire.ServiceTarget(wire.KindTCP, adminapi.ServiceAdmin), tunnel.OpenOptions{Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	next.Admin.Roles = nil
	if err := r.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	_ = stream.SetReadDeadline(time.Now().Add(patience))
	var abort *tunnel.AbortError
	if _, err := stream.Read(make([]byte, 1)); !errors.As(err, &abort) {
		t.Errorf("the open stream: %v, want a cut", err)
	}
	var refusal *wire.Refusal
	if _, err := asAdmin(t, session).Whoami(ctx); !errors.As(err, &refusal) || refusal.Code != wire.CodeNoSuchService {
		t.Errorf("a new stream: %v, want no such service", err)
	}
}

func TestBreakGlassSocket(t *testing.T) {
	r := everything(t, nil).serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	me, err := r.asRoot().Whoami(ctx)
	if err != nil || !slices.Contains(me.Roles, adminapi.RoleOwner) {
		t.Fatalf("over the socket: %+v, %v; want an owner", me, err)
	}
	session := r.connect("ada")
	eventually(t, "the session is listed", func() bool {
		list, err := r.asRoot().Sessions(ctx, adminapi.SessionQuery{})
		return err == nil && len(list.Items) == 1
	})
	began := time.Now()
	if _, err := r.asRoot().AddLock(ctx, adminapi.LockAdd{Kind: "user", Target: "corp:ada@corp.example", Message: "Ask it-help."}); err != nil {
		t.Fatal(err)
	}
	<-session.Done()
	var end *wire.Termination
	if !errors.As(session.Err(), &end) || end.Code != wire.TerminateLocked || end.Reason != "Ask it-help." {
		t.Errorf("ada's client learned %v", session.Err())
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the cut took %s, want at most 1s", took)
	}
}

func TestAdminSocketCanBeOff(t *testing.T) {
	r := everything(t, func(cfg *Config) { cfg.Admin.Socket = "off" }).serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := r.asRoot().Whoami(ctx); err == nil {
		t.Error("the socket answers")
	}
}
