package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/buildinfo"
	"github.com/culvert-vpn/culvert/internal/localsock"
	"github.com/culvert-vpn/culvert/server/admin"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// The administration API has no port. It is reached through streams to the services
// that are built in, and by root through a socket on this machine.

// The bounds of one request to the administration API. A preview streams its
// answer for as long as it takes.
const (
	adminReadHeader = 5 * time.Second
	adminIdle       = 2 * time.Minute
	adminMaxHeader  = 16 << 10
)

// administration is the API and the servers that it is reached by.
type administration struct {
	api    *admin.API
	roles  func(*auth.Identity) admin.Roles
	log    *slog.Logger
	served map[string]*innerServer // by the service's name
	socket *http.Server            // nil without one
	locals *localsock.Listener
	path   string
}

// An innerServer serves HTTP on streams.
type innerServer struct {
	http  *http.Server
	queue *connQueue
}

func (s *Server) assembleAdministration() error {
	api, err := admin.New(admin.Config{
		Policies: adminPolicies{s.store, s.rules}, Preview: s.preview, Sessions: adminSessions{s.store, s.authority.GatewayID(), s.registry, s.standing},
		Locks: adminLocks{s.store, s.standing}, Requests: adminRequests{s.store, s.standing}, Inventory: s.store, Index: s.store, Audit: s.audit,
		Managed: s.rules.source == sourceManaged, Gateway: string(s.authority.GatewayID()), Version: buildinfo.Version(),
		Issuer: s.issuerOf, OnlyProvider: s.onlyProvider(), Kept: s.rules.opts.Kept, Logger: s.log.With("component", "admin"), Now: s.now,
	})
	if err != nil {
		return err
	}
	a := &administration{api: api, roles: s.rolesOf, log: s.log.With("component", "admin"), served: make(map[string]*innerServer)}
	for name, handler := range map[string]http.Handler{adminapi.ServiceAdmin: api.Admin(), adminapi.ServiceSelf: api.Self()} {
		a.served[name] = &innerServer{
			queue: newConnQueue(s.listener.Addr()),
			http:  a.server(handler, a.person),
		}
	}
	s.administration = a
	return a.listen(s.cfg.Admin.Socket, s.cfg.StateDir)
}

// A callerFunc says who is at the other end of a connection at the moment of a
// request.
type callerFunc func() admin.Caller

type callerKey struct{}

// server is an HTTP server whose requests have a caller. Where of does not know
// one, there is none, and everything is refused.
func (a *administration) server(handler http.Handler, of func(net.Conn) callerFunc) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if caller, _ := req.Context().Value(callerKey{}).(callerFunc); caller != nil {
				req = req.WithContext(admin.WithCaller(req.Context(), caller()))
			}
			handler.ServeHTTP(w, req)
		}),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, of(conn))
		},
		ReadHeaderTimeout: adminReadHeader, IdleTimeout: adminIdle, MaxHeaderBytes: adminMaxHeader,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// listen opens the socket for break-glass.
func (a *administration) listen(path, stateDir string) (err error) {
	if path == "off" {
		return nil
	}
	if path == "" {
		path = filepath.Join(stateDir, AdminSocket)
	}
	if a.locals, err = localsock.Listen(path, a.log); err != nil {
		return fmt.Errorf("listen for \"culvert-gateway admin\" (admin.socket): %w", explain(err, path))
	}
	a.path = path
	a.socket = a.server(a.api.Admin(), rootOn)
	return nil
}

// rootOn names who is at the other end of the socket.
func rootOn(conn net.Conn) callerFunc {
	peer, err := localsock.PeerOf(conn)
	if err != nil {
		return nil
	}
	return func() admin.Caller { return admin.Caller{Via: admin.ViaSocket, UID: int(peer.UID)} }
}

// AdminSocket is the name of the socket in the state folder.
const AdminSocket = "admin.sock"

// builtIns are the services for gateway.Config.
func (a *administration) builtIns() map[string]gateway.BuiltIn {
	return map[string]gateway.BuiltIn{
		adminapi.ServiceAdmin: {Admit: a.admit, Serve: a.serve(adminapi.ServiceAdmin)},
		adminapi.ServiceSelf:  {Admit: func(*auth.Identity) *wire.Refusal { return nil }, Serve: a.serve(adminapi.ServiceSelf)},
	}
}

// admit lets those in who have anything to do there. To others there is no such
// service.
func (a *administration) admit(id *auth.Identity) *wire.Refusal {
	if a.api.MayEnter(admin.Caller{Identity: *id, Roles: a.roles(id), Via: admin.ViaTunnel}) {
		return nil
	}
	return &wire.Refusal{Code: wire.CodeNoSuchService, Reason: "no role of the gateway's configuration, and no service whose requests they may approve"}
}

// A personConn is a stream with whom it belongs to.
type personConn struct {
	net.Conn
	peer   gateway.Peer
	closed chan struct{}
	once   sync.Once
}

func (c *personConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// serve hands a stream to the HTTP server, and waits until that is done with it.
func (a *administration) serve(name string) func(context.Context, net.Conn, gateway.Peer) {
	return func(ctx context.Context, conn net.Conn, peer gateway.Peer) {
		person := &personConn{Conn: conn, peer: peer, closed: make(chan struct{})}
		if !a.served[name].queue.push(person) {
			_ = person.Close()
			return
		}
		select {
		case <-person.closed:
		case <-ctx.Done():
			_ = person.Close()
		}
	}
}

// person names whom a stream belongs to: by the certificate of the moment, with the
// roles of the moment.
func (a *administration) person(conn net.Conn) callerFunc {
	person, ok := conn.(*personConn)
	if !ok {
		return nil
	}
	return func() admin.Caller {
		id, serial := person.peer.Current()
		return admin.Caller{
			Identity: *id, Serial: serial, Roles: a.roles(id), Via: admin.ViaTunnel, Remote: person.peer.Remote.String(),
		}
	}
}

// run serves until ctx ends, and then lets running requests finish for a while.
func (a *administration) run(ctx context.Context) error {
	var (
		all    sync.WaitGroup
		failed = make(chan error, len(a.served)+1)
	)
	begin := func(srv *http.Server, l net.Listener) {
		all.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				failed <- err
			}
		})
	}
	for _, inner := range a.served {
		begin(inner.http, inner.queue)
	}
	if a.socket != nil {
		begin(a.socket, a.locals)
		a.log.Debug("the administration API is on a socket", "path", a.path)
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve the administration API: %w", err)
	}
	a.stop()
	all.Wait()
	return err
}

// stop ends the servers. What still runs is cut with its streams.
func (a *administration) stop() {
	for _, inner := range a.served {
		_ = inner.queue.Close()
		_ = inner.http.Close()
	}
	if a.socket != nil {
		_ = a.socket.Close()
	}
}

// close gives the socket back.
func (a *administration) close() error {
	if a == nil || a.locals == nil {
		return nil
	}
	_ = a.locals.Close() // twice when the server did it, which harms nothing
	return a.locals.Unlock()
}

// rolesOf are somebody's roles now.
func (s *Server) rolesOf(id *auth.Identity) admin.Roles {
	var roles admin.Roles
	for _, role := range s.roles.Load().of(id) {
		roles = append(roles, adminapi.Role(role))
	}
	return roles
}

// issuerOf is the issuer of a provider.
// onlyProvider is the name of the provider where there is one; empty where there are several.
func (s *Server) onlyProvider() string {
	if len(s.cfg.Providers) != 1 {
		return ""
	}
	return s.cfg.Providers[0].Name
}

func (s *Server) issuerOf(provider string) (string, bool) {
	for _, p := range s.cfg.Providers {
		if p.Name == provider {
			return p.Issuer, true
		}
	}
	return "", false
}
