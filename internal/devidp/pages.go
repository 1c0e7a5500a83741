package devidp

import (
	"bytes"
	"embed"
	"net/http"
	"net/url"

	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

//go:embed pages/*.html pages/*.css
var pageFiles embed.FS

// page is what the template shows.
type page struct {
	Title, Kind   string
	Base, Warning string
	Error, Notice string
	Client        string
	ID, Ticket    string
	UserCode      string
	Account       string
	Accounts      []string
}

// show renders a page. formTarget is an origin, besides our own, that a form's redirects may lead to; browsers
// apply form-action to those as well.
func (p *Provider) show(w http.ResponseWriter, status int, formTarget string, data page) {
	data.Base, data.Warning = p.path(""), Warning
	var out bytes.Buffer
	if err := p.pages.Execute(&out, data); err != nil {
		p.logger.Error("render a page of the development provider", "error", err)
		http.Error(w, "the page cannot be rendered", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self' "+formTarget+
		"; frame-ancestors 'none'; base-uri 'none'")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w)
}

func (p *Provider) welcome(w http.ResponseWriter, _ *http.Request) {
	p.show(w, http.StatusOK, "", page{Title: "Development sign-in", Kind: "welcome", Accounts: p.store.names()})
}

func (p *Provider) loginPage(w http.ResponseWriter, r *http.Request) {
	p.loginForm(w, http.StatusOK, r.URL.Query().Get("id"), "", "")
}

func (p *Provider) loginForm(w http.ResponseWriter, status int, id, account, problem string) {
	client, target, hint, err := p.store.pending(id)
	if err != nil {
		p.show(w, http.StatusBadRequest, "", page{Title: "Sign-in expired", Kind: "notice",
			Error: "This sign-in is unknown or has expired. Start it again from the application."})
		return
	}
	if account == "" {
		account = hint
	}
	p.show(w, status, target, page{Title: "Sign in", Kind: "login", ID: id, Client: client, Account: account, Error: problem})
}

func (p *Provider) loginSubmit(w http.ResponseWriter, r *http.Request) {
	id, account := r.PostFormValue("id"), r.PostFormValue("account")
	if r.PostFormValue("decision") == "cancel" {
		p.loginCancel(w, r, id)
		return
	}
	if err := p.store.login(id, account, r.PostFormValue("password")); err != nil {
		p.logger.Info("development sign-in refused", "account", account, "reason", err.Error())
		p.loginForm(w, http.StatusForbidden, id, account, err.Error())
		return
	}
	http.Redirect(w, r, p.path("/authorize/callback")+"?id="+url.QueryEscape(id), http.StatusFound)
}

// loginCancel goes back to the application with the person's no.
func (p *Provider) loginCancel(w http.ResponseWriter, r *http.Request, id string) {
	request, err := p.store.AuthRequestByID(r.Context(), id)
	if err != nil {
		p.loginForm(w, http.StatusBadRequest, id, "", "")
		return
	}
	_ = p.store.DeleteAuthRequest(r.Context(), id) // never fails
	refusal := zoidc.ErrAccessDenied().WithDescription("the sign-in was cancelled")
	op.AuthRequestError(&issuerWriter{ResponseWriter: w, issuer: p.issuer}, r, request, refusal, p.inner)
}

func (p *Provider) devicePage(w http.ResponseWriter, r *http.Request) {
	p.show(w, http.StatusOK, "", page{Title: "Sign in another device", Kind: "device", UserCode: r.URL.Query().Get("user_code")})
}

func (p *Provider) deviceSubmit(w http.ResponseWriter, r *http.Request) {
	code, account := r.PostFormValue("user_code"), r.PostFormValue("account")
	ticket, code2, client, err := p.store.deviceSignIn(code, account, r.PostFormValue("password"))
	if err != nil {
		p.show(w, http.StatusForbidden, "", page{Title: "Sign in another device", Kind: "device", UserCode: code, Account: account, Error: err.Error()})
		return
	}
	p.show(w, http.StatusOK, "", page{Title: "Confirm the sign-in", Kind: "confirm", Ticket: ticket, UserCode: code2, Client: client, Account: account})
}

func (p *Provider) deviceConfirm(w http.ResponseWriter, r *http.Request) {
	allow := r.PostFormValue("decision") == "allow"
	if err := p.store.deviceDecide(r.PostFormValue("ticket"), allow); err != nil {
		p.show(w, http.StatusBadRequest, "", page{Title: "Sign-in expired", Kind: "notice", Error: err.Error()})
		return
	}
	notice := "The sign-in was refused. You can close this page."
	if allow {
		notice = "The other device is signed in. You can close this page."
	}
	p.show(w, http.StatusOK, "", page{Title: "Done", Kind: "notice", Notice: notice})
}

func (p *Provider) style(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, pageFiles, "pages/style.css")
}
