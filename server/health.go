package server

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// A Check is one thing that a gateway needs, or would like to have.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Required: while it is not OK, a balancer should send nobody here.
	Required bool `json:"required"`
	// Detail says what is missing and what to do. Strangers read it: it has
	// neither paths nor addresses of the inside.
	Detail string `json:"detail,omitempty"`
}

// A Readiness is the answer of /readyz.
type Readiness struct {
	Ready  bool    `json:"ready"`
	Checks []Check `json:"checks"`
}

// readyFor is how long an answer is given again, so that strangers who ask
// often cost nothing.
const readyFor = time.Second

// A health asks the gateway's parts how they are. Safe for concurrent use.
type health struct {
	checks []func(context.Context) Check
	now    func() time.Time

	mu    sync.Mutex
	asked time.Time
	last  Readiness
}

// readiness returns the state of at most readyFor ago.
func (h *health) readiness(ctx context.Context) Readiness {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.asked.IsZero() && h.now().Sub(h.asked) < readyFor {
		return h.last
	}
	r := Readiness{Ready: true}
	for _, check := range h.checks {
		c := check(ctx)
		r.Checks = append(r.Checks, c)
		if c.Required && !c.OK {
			r.Ready = false
		}
	}
	h.last, h.asked = r, h.now()
	return r
}

// forget makes the next question look again.
func (h *health) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = time.Time{}
}

// serveLive answers /healthz: the process is there and serves HTTP.
func serveLive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// serveReady answers /readyz: 200, or 503 with the causes.
func (h *health) serveReady(w http.ResponseWriter, req *http.Request) {
	// One slow part must not hold up a balancer's probe.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), 2*time.Second)
	defer cancel()
	r := h.readiness(ctx)
	w.Header().Set("Content-Type", "application/json")
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(r)
}
