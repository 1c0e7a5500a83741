package tunnel

import (
	"log/slog"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// ClientConfig configures the client's end of a connection. Callbacks are optional, run one at a time in the order of the
// messages, must not block for long, and must not call Close of the session.
type ClientConfig struct {
	Hello  wire.Hello   // what to say; Versions defaults to what this package speaks
	Logger *slog.Logger // optional; default: none
	Limits Limits       // optional; what the gateway allows may be less

	// OnServices has each whole announcement of services.
	OnServices func(wire.Services)
	// OnDraining says that the gateway takes no more streams: connect again; open streams go on until the deadline.
	OnDraining func(wire.Draining)
	// OnRenewed has a Renewed of the gateway that answers no Renew of ours: new deadlines or roots.
	OnRenewed func(wire.Renewed)
	// OnStepUp has each request for a fresh login; it is asked for only when Hello.StepUp is set. The answer is Renew, or
	// SendStepUp with a Refusal.
	OnStepUp func(wire.StepUp)
	// Stalls is optional; default: 256 stalled streams of this session. Share one among the sessions of a process.
	Stalls *StallLimit
}

// ServerConfig configures the gateway's end. See ClientConfig for the rules of callbacks.
type ServerConfig struct {
	Logger *slog.Logger // optional; default: none
	Limits Limits       // optional

	// Admit answers a Hello; required, and without it every client is refused. Version and Limits of the Welcome are filled in
	// by this package. An error that is (or wraps) a *wire.Termination is told to the client as it is, any other one is
	// told without its text.
	Admit func(wire.Hello) (wire.Welcome, error)
	// OnRenewed checks a renewed certificate chain (DER, leaf first) and answers with the new times; without it, or with an error,
	// the renewal is refused and the session goes on as it was. The error's text is told to the client. It may block.
	OnRenewed func(chain [][]byte) (wire.Renewed, error)
	// OnPosture has what the client says about its device after Hello.
	OnPosture func(map[string]string)
	// OnStepUp has the client's refusal of a fresh login; Refusal is never empty.
	OnStepUp func(wire.StepUp)
	// Stalls is optional; default: 256 stalled streams of this session. Share one among the sessions of a process.
	Stalls *StallLimit
}

// config is what both ends share.
type config struct {
	log    *slog.Logger
	limits Limits
	stalls *StallLimit

	onServices func(wire.Services)
	onDraining func(wire.Draining)
	onAnswer   func(wire.Renewed)
	onRenewed  func(chain [][]byte) (wire.Renewed, error)
	onPosture  func(map[string]string)
	onStepUp   func(wire.StepUp)
}

func (c *ClientConfig) common() config {
	limits := c.Limits
	if limits.Budget <= 0 {
		limits.Budget = clientBudget
	}
	return config{
		log: orDiscard(c.Logger), limits: limits.withDefaults(), stalls: orDefault(c.Stalls),
		onServices: c.OnServices, onDraining: c.OnDraining, onAnswer: c.OnRenewed, onStepUp: c.OnStepUp,
	}
}

func (c *ServerConfig) common() config {
	return config{
		log: orDiscard(c.Logger), limits: c.Limits.withDefaults(), stalls: orDefault(c.Stalls),
		onRenewed: c.OnRenewed, onPosture: c.OnPosture, onStepUp: c.OnStepUp,
	}
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

func orDefault(l *StallLimit) *StallLimit {
	if l == nil {
		return NewStallLimit(defaultStalls)
	}
	return l
}
