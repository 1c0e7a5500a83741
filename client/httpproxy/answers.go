package httpproxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// An answer is how a code of a refusal looks over HTTP. The error type is from
// the registry of RFC 9209, section 2.3.
type answer struct {
	status    int
	errorType string
}

var answers = map[wire.Code]answer{
	wire.CodeDenied:         {http.StatusForbidden, "http_request_denied"},
	wire.CodeStepUpRequired: {http.StatusForbidden, "http_request_denied"},
	wire.CodeNoSuchService:  {http.StatusForbidden, "destination_not_found"},
	wire.CodeExpired:        {http.StatusForbidden, "http_request_denied"},
	wire.CodeRefused:        {http.StatusBadGateway, "connection_refused"},
	wire.CodeUnreachable:    {http.StatusBadGateway, "destination_ip_unroutable"},
	wire.CodeTimedOut:       {http.StatusGatewayTimeout, "connection_timeout"},
	wire.CodeLimit:          {http.StatusServiceUnavailable, "connection_limit_reached"},
	wire.CodeDraining:       {http.StatusServiceUnavailable, "proxy_internal_error"},
	wire.CodeUnavailable:    {http.StatusServiceUnavailable, "proxy_internal_error"},
}

// fail answers a request that could not be granted, for a person who reads it
// in a browser or a terminal. The body is plain text, so that no name in it can
// be markup.
func (s *Server) fail(w http.ResponseWriter, t wire.Target, err error) {
	a := answer{http.StatusBadGateway, "proxy_internal_error"}
	text := fmt.Sprintf("culvert: %s cannot be reached: %v\n", t, err)
	var refusal *wire.Refusal
	if errors.As(err, &refusal) {
		if known, ok := answers[refusal.Code]; ok {
			a = known
		}
		text = explain(t, refusal)
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Proxy-Status", fmt.Sprintf("culvert; error=%s; details=%s", a.errorType, quote(err.Error())))
	w.WriteHeader(a.status)
	_, _ = w.Write([]byte(text))
}

func explain(t wire.Target, r *wire.Refusal) string {
	var b strings.Builder
	what, remedy := string(r.Code), r.Remedy
	if r.Code == wire.CodeNoSuchService {
		what = "no service of this name"
		if remedy == "" {
			remedy = "`culvert services` lists what there is"
		}
	}
	fmt.Fprintf(&b, "culvert: %s: %s\n", t, what)
	for _, line := range []struct{ name, value string }{
		{"reason", r.Reason}, {"what helps", remedy}, {"reference", r.Reference},
	} {
		if line.value != "" {
			fmt.Fprintf(&b, "  %s: %s\n", line.name, line.value)
		}
	}
	if r.Code == wire.CodeNoSuchService {
		b.WriteString("  this proxy leads to services only; with its /proxy.pac a browser takes everything else past it.\n")
	}
	return b.String()
}

// quote writes a string of a structured field (RFC 9651, section 3.3.3):
// printable ASCII alone, everything else as "?".
func quote(s string) string {
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return strconv.Quote(ascii)
}

// own answers requests to the proxy itself.
func (s *Server) own(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !ownHost(r.Host, s.ln.Addr()) || r.Header.Get("Origin") != "" {
		http.Error(w, "culvert: this is a proxy on your own machine; ask it by its address", http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "culvert: GET only", http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path {
	case "/proxy.pac":
		w.Header().Set("Content-Type", "application/x-ns-proxy-autoconfig")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write([]byte(PAC(s.cfg.Services(), s.ln.Addr().String())))
	case "/":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "Culvert's HTTP proxy. Browsers: use the automatic configuration at http://%s/proxy.pac\n", s.ln.Addr())
	default:
		http.NotFound(w, r)
	}
}
