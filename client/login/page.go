package login

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"strings"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

//go:embed pages/outcome.html
var outcomePage string

//go:embed pages/outcome.css
var outcomeStyle string

// outcome is what the last page shows. Everything in it is escaped by the template.
type outcome struct {
	Title, Text, Detail string
	OK                  bool
}

func outcomeOf(err error) outcome {
	var fromProvider *oidc.ProviderError
	var fromGateway *enroll.Problem
	switch {
	case err == nil:
		return outcome{OK: true, Title: "You are logged in", Text: "You can close this page and go back to the terminal."}
	case errors.As(err, &fromProvider):
		return outcome{Title: "The provider refused the login", Text: "It says:", Detail: clean(fromProvider.Error())}
	case errors.As(err, &fromGateway):
		return outcome{Title: "The gateway refused the login", Text: "It says:",
			Detail: strings.TrimSpace(fromGateway.Error() + " " + fromGateway.Remedy)}
	}
	return outcome{Title: "The login failed", Text: "The terminal shows this too:", Detail: clean(err.Error())}
}

func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return http.StatusBadGateway
}

// showPage writes one self-contained page that loads nothing and tells no other site the address it came from,
// which holds the code.
func showPage(w http.ResponseWriter, status int, o outcome) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	// The one style sheet is permitted by its hash (Content Security Policy Level 3, section 6.7.3.3).
	style := sha256.Sum256([]byte(outcomeStyle))
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(style[:])+
		"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	var body bytes.Buffer
	tmpl, err := template.New("outcome").Parse(outcomePage)
	if err == nil {
		err = tmpl.Execute(&body, struct {
			outcome
			Style template.CSS
		}{o, template.CSS(outcomeStyle)})
	}
	if err != nil {
		http.Error(w, o.Title, status)
		return
	}
	w.WriteHeader(status)
	_, _ = body.WriteTo(w)
}
