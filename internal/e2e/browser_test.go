//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// A browser follows a provider's login pages as a person would: it fills in and
// submits the form of each page until a page has none.
type browser struct {
	http *http.Client
	// fields are what the person types, by the name of the input.
	fields map[string]string
}

func newBrowser(fields map[string]string) *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{http: &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}, fields: fields}
}

// person is what somebody types at the independent provider's pages.
func person(name string) map[string]string {
	return map[string]string{"login": name, "password": "any"}
}

// visit opens address and returns the text of the page at which it ended: the
// one that the client's loopback port served, or the provider's last word.
func (b *browser) visit(ctx context.Context, address string) (string, error) {
	method, body := http.MethodGet, ""
	for range 10 {
		req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
		if err != nil {
			return "", err
		}
		if method == http.MethodPost {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, err := b.http.Do(req)
		if err != nil {
			return "", err
		}
		page, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err != nil {
			return "", err
		}
		f, err := firstForm(page)
		if err != nil {
			return "", err
		}
		if f == nil {
			return string(page), nil
		}
		action, err := resp.Request.URL.Parse(f.action)
		if err != nil {
			return "", fmt.Errorf("form action %q: %w", f.action, err)
		}
		method, address, body = f.method, action.String(), b.fill(f).Encode()
	}
	return "", errors.New("ten forms and no end")
}

func (b *browser) fill(f *form) url.Values {
	values := url.Values{}
	for name, value := range f.inputs {
		if typed, ok := b.fields[name]; ok {
			value = typed
		}
		values.Set(name, value)
	}
	return values
}

type form struct {
	method, action string
	inputs         map[string]string
}

// firstForm returns the first form of a page that is submitted by POST, nil
// when there is none.
func firstForm(page []byte) (*form, error) {
	root, err := html.Parse(strings.NewReader(string(page)))
	if err != nil {
		return nil, err
	}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || !strings.EqualFold(attr(n, "method"), "post") {
			continue
		}
		f := &form{method: http.MethodPost, action: attr(n, "action"), inputs: map[string]string{}}
		for in := range n.Descendants() {
			if in.Type == html.ElementNode && in.Data == "input" && attr(in, "name") != "" {
				f.inputs[attr(in, "name")] = attr(in, "value")
			}
		}
		return f, nil
	}
	return nil, nil
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}
