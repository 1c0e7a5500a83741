package server

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-vpn/culvert/auth/oidc"
)

// A provider under another name than the configured one has answered: who reads the check or the log looks at the setting, and not for
// a network that is down.
func TestProviderTroubleSaysWhatIsWrong(t *testing.T) {
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"issuer":"http://%s/other","authorization_endpoint":"http://%[1]s/a","token_endpoint":"http://%[1]s/t","jwks_uri":"http://%[1]s/j"}`, r.Host)
	}))
	defer idp.Close()
	verifier, err := oidc.NewVerifier(oidc.ProviderConfig{Name: "corp", Issuer: idp.URL, ClientID: "culvert"}, oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.CloseIdleConnections()
	if _, err = verifier.Provider(t.Context()); !errors.Is(err, oidc.ErrIssuer) {
		t.Fatal(err)
	}
	var log bytes.Buffer
	p := &provider{name: "corp", log: slog.New(slog.NewTextHandler(&log, nil)), up: prometheus.NewGauge(prometheus.GaugeOpts{Name: "up"})}
	s := &Server{providers: []*provider{p}}
	for _, c := range []struct {
		err          error
		detail, line string
	}{
		{err, "an answer that does not fit the configured issuer from the OpenID provider corp", "does not fit the configured issuer"},
		{oidc.ErrUnavailable, "no answer from the OpenID provider corp", "cannot be used; new logins"},
		{errors.New("no jwks_uri"), "an answer that cannot be used, the gateway's log says why, from the OpenID provider corp", "no jwks_uri"},
		{nil, "", "can be used again"},
	} {
		log.Reset()
		p.report(c.err)
		if got := s.providerTrouble(); got != c.detail || !strings.Contains(log.String(), c.line) {
			t.Errorf("%v: %q, logged %s", c.err, got, log.String())
		}
	}
}
