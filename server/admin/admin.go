// Package admin is the handler of a gateway's administration API (internal/adminapi): it decides who may ask what, audits
// each change before it takes effect, and answers from what the gateway gives it.
//
// Everything is denied that a role, or the policy's word on who approves requests, does not permit. Who asks is told by
// the server that serves the connection, see [WithCaller]: from the verified certificate of a tunnel, or as root over the
// gateway's own socket. Nothing in a request says it.
//
// The package opens no port, keeps no state but the bound of what runs at once, and knows no database: what it asks for
// stands in the interfaces of backend.go.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
)

// Config is what an API needs.
type Config struct {
	// All of these are required.
	Policies  Policies
	Preview   Preview
	Sessions  Sessions
	Locks     Locks
	Requests  Requests
	Index     AuditIndex
	Inventory Inventory
	// Audit records changes and denials, before they happen.
	Audit Recorder

	// Managed says that policies are changed by this API. Where it is false they are files, and changes are refused.
	Managed bool
	// Gateway and Version name this gateway and its program.
	Gateway string
	Version string
	// Issuer returns the issuer of a provider by its name, to name users whom no gateway has seen. Optional.
	Issuer func(provider string) (issuer string, ok bool)
	// OnlyProvider is the name of the provider where there is one: its groups need not say whose they are. Optional.
	OnlyProvider string
	// Kept says whether a group goes into certificates. Optional; default: each does.
	Kept func(provider, group string) bool

	Logger *slog.Logger     // Optional; default: discards.
	Now    func() time.Time // Optional; default time.Now.

	// BodyTimeout is how long a body may take to come. Default 30 s.
	BodyTimeout time.Duration
	// OwnChanges is how many requests of theirs a person may make or withdraw in a minute. Default 20.
	OwnChanges int
}

// Recorder is the audit log. When it returns nil the record is on the disk, but for refusals that it only counts.
type Recorder interface {
	Append(ctx context.Context, r audit.Record) (audit.Receipt, error)
}

// API answers administrators and, for their own requests, everybody who is logged in. It is safe for concurrent use; make
// one with [New].
type API struct {
	Config
	document []byte // the OpenAPI document
	admin    *service
	self     *service
	gates    *gates
	applying sync.Mutex // one change of the policy at a time
}

// New returns an API. It refuses a configuration in which something is missing.
func New(cfg Config) (*API, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("set up the administration API: %w", err)
	}
	document, err := adminapi.Document(cfg.Version)
	if err != nil {
		return nil, fmt.Errorf("set up the administration API: %w", err)
	}
	a := &API{Config: cfg, document: document, gates: newGates(cfg.OwnChanges, cfg.Now)}
	handlers := a.handlers()
	if a.admin, err = newService(a, adminapi.ServiceAdmin, handlers); err != nil {
		return nil, err
	}
	a.self, err = newService(a, adminapi.ServiceSelf, handlers)
	return a, err
}

// complete checks what is required and fills in what is not.
func (c *Config) complete() error {
	switch {
	case c.Policies == nil || c.Preview == nil || c.Sessions == nil || c.Locks == nil ||
		c.Requests == nil || c.Index == nil || c.Inventory == nil:
		return errors.New("a backend is missing")
	case c.Audit == nil:
		return errors.New("there is no audit log")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Issuer == nil {
		c.Issuer = func(string) (string, bool) { return "", false }
	}
	if c.Kept == nil {
		c.Kept = func(string, string) bool { return true }
	}
	if c.BodyTimeout <= 0 {
		c.BodyTimeout = 30 * time.Second
	}
	if c.OwnChanges <= 0 {
		c.OwnChanges = 20
	}
	return nil
}

// Admin handles the requests to culvert-admin, and those over the gateway's socket. Requests need a caller in their
// context, see [WithCaller].
func (a *API) Admin() http.Handler { return a.admin }

// Self handles the requests to culvert-self: people's own requests.
func (a *API) Self() http.Handler { return a.self }
