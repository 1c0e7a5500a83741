package devidp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Page is where a Browser ended.
type Page struct {
	URL    *url.URL
	Status int
	Body   string
}

// Browser drives the pages of a Provider over HTTP as a person would. Its zero value is ready.
type Browser struct {
	// HTTP sends the requests; its Jar and CheckRedirect are replaced. Default: a client with a 30 s time-out.
	HTTP *http.Client
}

// Login opens authURL, fills the login form in and follows the redirects to the application's callback. The
// error says what the provider or the callback page showed when it did not go well.
func Login(ctx context.Context, authURL, account, password string) error {
	page, err := Browser{}.Login(ctx, authURL, account, password)
	if err == nil && page.Status != http.StatusOK {
		err = fmt.Errorf("the login ended at %s with status %d", page.URL.Redacted(), page.Status)
	}
	return err
}

// Login is the function Login, and returns the last page. An error at the login form is an error here; what the
// application's callback says is not.
func (b Browser) Login(ctx context.Context, authURL, account, password string) (Page, error) {
	client, done := b.client()
	defer done()
	form, err := get(ctx, client, authURL)
	if err != nil {
		return Page{}, err
	}
	id := hiddenField(form.Body, "id")
	if id == "" {
		return form, fmt.Errorf("no login form at %s (status %d): %s", form.URL.Redacted(), form.Status, alert(form.Body))
	}
	next, err := post(ctx, client, form.URL, "login", url.Values{"id": {id}, "account": {account}, "password": {password}})
	if err == nil && next.URL.Host == form.URL.Host && next.Status != http.StatusOK {
		err = fmt.Errorf("the provider refused the login: %s", alert(next.Body))
	}
	return next, err
}

// Cancel opens authURL, says no at the login form, and follows the redirects to the application's callback.
func (b Browser) Cancel(ctx context.Context, authURL string) (Page, error) {
	client, done := b.client()
	defer done()
	form, err := get(ctx, client, authURL)
	if err != nil {
		return Page{}, err
	}
	id := hiddenField(form.Body, "id")
	if id == "" {
		return form, fmt.Errorf("no login form at %s (status %d): %s", form.URL.Redacted(), form.Status, alert(form.Body))
	}
	return post(ctx, client, form.URL, "login", url.Values{"id": {id}, "decision": {"cancel"}})
}

// ConfirmDevice signs in at verificationURI with a device login's code, and allows or refuses it.
func (b Browser) ConfirmDevice(ctx context.Context, verificationURI, userCode, account, password string, allow bool) error {
	client, done := b.client()
	defer done()
	form, err := get(ctx, client, verificationURI)
	if err != nil {
		return err
	}
	confirm, err := post(ctx, client, form.URL, "device", url.Values{"user_code": {userCode}, "account": {account}, "password": {password}})
	if err != nil {
		return err
	}
	ticket := hiddenField(confirm.Body, "ticket")
	if ticket == "" {
		return fmt.Errorf("the provider refused the device login: %s", alert(confirm.Body))
	}
	decision := "deny"
	if allow {
		decision = "allow"
	}
	last, err := post(ctx, client, form.URL, "device/confirm", url.Values{"ticket": {ticket}, "decision": {decision}})
	if err == nil && last.Status != http.StatusOK {
		err = errors.New("the provider refused the confirmation: " + alert(last.Body))
	}
	return err
}

func (b Browser) client() (client *http.Client, done func()) {
	client = &http.Client{Timeout: 30 * time.Second, Transport: http.DefaultTransport.(*http.Transport).Clone()}
	done = client.CloseIdleConnections
	if b.HTTP != nil {
		clone := *b.HTTP
		client, done = &clone, func() {}
	}
	client.Jar, _ = cookiejar.New(nil) // never fails without options
	client.CheckRedirect = nil
	return client, done
}

func get(ctx context.Context, client *http.Client, address string) (Page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return Page{}, fmt.Errorf("open %s: %w", address, err)
	}
	return fetch(client, req)
}

// post sends a form to the page called name beside base.
func post(ctx context.Context, client *http.Client, base *url.URL, name string, form url.Values) (Page, error) {
	target := base.ResolveReference(&url.URL{Path: name})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return Page{}, fmt.Errorf("send the form: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return fetch(client, req)
}

func fetch(client *http.Client, req *http.Request) (Page, error) {
	resp, err := client.Do(req)
	if err != nil {
		return Page{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return Page{URL: resp.Request.URL, Status: resp.StatusCode, Body: string(body)}, err
}

var (
	alertText = regexp.MustCompile(`<p class="error" role="alert">([^<]*)</p>`)
	hidden    = regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)">`)
)

func hiddenField(body, name string) string {
	for _, match := range hidden.FindAllStringSubmatch(body, -1) {
		if match[1] == name {
			return match[2]
		}
	}
	return ""
}

// alert is the error that a page shows, or the start of a page that is none of ours.
func alert(body string) string {
	if match := alertText.FindStringSubmatch(body); match != nil {
		return match[1]
	}
	return strings.TrimSpace(body[:min(len(body), 200)])
}
