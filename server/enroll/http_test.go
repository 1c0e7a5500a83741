package enroll

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/audit"
)

// post sends a raw body and reads the problem of the answer.
func post(t *testing.T, f *fixture, path, contentType string, body io.Reader) (*http.Response, enroll.Problem) {
	t.Helper()
	resp, err := f.srv.Client().Post(f.srv.URL+path, contentType, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p enroll.Problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	return resp, p
}

func TestProblemDetails(t *testing.T) {
	f := newFixture(t)
	resp, p := post(t, f, enroll.PathLogin, "application/json", strings.NewReader(`{"provider":"nope\u001b[2J"}`))
	if resp.StatusCode != 400 || p.Status != 400 || p.Code != enroll.CodeUnknownProvider || p.Type != "about:blank" ||
		p.Title != "Bad Request" || strings.Contains(p.Detail, "\x1b") || p.Reference == "" {
		t.Errorf("%+v", p)
	}
	if h := resp.Header; h.Get("Content-Type") != "application/problem+json" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", h)
	}
	if !strings.Contains(f.log.String(), p.Reference) {
		t.Error("the log does not have the reference")
	}
}

func TestPathsAndMethods(t *testing.T) {
	f := newFixture(t)
	_, p := post(t, f, "/v1/enroll/admin", "application/json", strings.NewReader(`{}`))
	if p.Code != enroll.CodeNotFound {
		t.Errorf("%+v", p)
	}
	resp, p := post(t, f, enroll.PathDiscovery, "application/json", strings.NewReader(`{}`))
	if p.Code != enroll.CodeMethodNotAllowed || resp.Header.Get("Allow") != "GET" {
		t.Errorf("%+v", p)
	}
	_, p = post(t, f, enroll.PathLogin, "text/plain", strings.NewReader(`{}`))
	if p.Code != enroll.CodeBadRequest {
		t.Errorf("%+v", p)
	}
}

// Floods and leaks: body before authentication (OpenZiti GHSA-q8g9): huge, deep and
// slow bodies end early, and memory stays flat.
func TestThreatHugeBody(t *testing.T) {
	f := newFixture(t)
	_, p := post(t, f, enroll.PathLogin, "application/json", bytes.NewReader(make([]byte, enroll.MaxRequest+1)))
	if p.Code != enroll.CodeTooLarge {
		t.Errorf("announced: %+v", p)
	}
	// Without a length, and endless: the answer comes before the end.
	w, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, enroll.PathLogin, io.MultiReader(strings.NewReader("{"), endless{}))
	req.Header.Set("Content-Type", "application/json")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f.handler.ServeHTTP(w, req)
	runtime.ReadMemStats(&after)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("endless: %d %s", w.Code, w.Body)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

// Many large bodies at once, from as many addresses, each of which keeps within its rate.
func TestThreatManyLargeBodies(t *testing.T) {
	const requests, size = 1000, 100 << 10
	f := newFixture(t)
	var refused, blocked atomic.Int64
	release := make(chan struct{})
	var running sync.WaitGroup
	for n := range requests {
		running.Go(func() {
			body := io.MultiReader(bytes.NewReader(make([]byte, size)), readerFunc(func([]byte) (int, error) {
				blocked.Add(1)
				<-release
				return 0, io.EOF
			}))
			w, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, enroll.PathLogin, body)
			req.Header.Set("Content-Type", "application/json")
			req.RemoteAddr = fmt.Sprintf("[2001:db8:0:%x::1]:1", n)
			f.handler.ServeHTTP(w, req)
			if w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") != "" {
				refused.Add(1)
			}
		})
	}
	for refused.Load()+blocked.Load() < requests {
		runtime.Gosched()
	}
	if n := blocked.Load(); n > maxHeld/size {
		t.Errorf("%d bodies of %d bytes are in memory", n, size)
	}
	close(release)
	running.Wait()
	if n := f.handler.held.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
	newDesktop(f).login(nil)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestThreatDeepBody(t *testing.T) {
	f := newFixture(t)
	deep := strings.Repeat(`{"a":[`, 20000)
	for _, path := range []string{enroll.PathLogin, enroll.PathChallenge, enroll.PathRenew, enroll.PathDevice, enroll.PathDevicePoll} {
		_, p := post(t, f, path, "application/json", strings.NewReader(deep))
		if p.Code != enroll.CodeBadRequest || !strings.Contains(p.Detail, "deeper") {
			t.Errorf("%s: %+v", path, p)
		}
	}
}

func TestThreatSlowBody(t *testing.T) {
	f := newFixture(t, func(_ *oidc.ProviderConfig, c *Config) { c.Limits.BodyTimeout = 50 * time.Millisecond })
	conn, err := tls.Dial("tcp", f.srv.Listener.Addr().String(), f.srv.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", enroll.PathLogin)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("answered %s", resp.Status)
	}
}

// Floods: per-address and per-user rates.
func TestThreatAddressFlood(t *testing.T) {
	f := newFixture(t, func(_ *oidc.ProviderConfig, c *Config) { c.Limits.AddressPerMinute = 3 })
	for range 3 {
		_, p := post(t, f, enroll.PathChallenge, "application/json", strings.NewReader(`{"serial":"x"}`))
		if p.Code != enroll.CodeBadRequest {
			t.Fatalf("%+v", p)
		}
	}
	resp, p := post(t, f, enroll.PathChallenge, "application/json", strings.NewReader(`{"serial":"x"}`))
	if p.Code != enroll.CodeRateLimited || resp.Header.Get("Retry-After") != "20" {
		t.Errorf("%+v, %v", p, resp.Header)
	}
	if _, err := f.client.Discover(t.Context()); err != nil {
		t.Errorf("discovery: %v", err)
	}
	f.clock.advance(20 * time.Second)
	if _, p = post(t, f, enroll.PathChallenge, "application/json", strings.NewReader(`{}`)); p.Code != enroll.CodeBadRequest {
		t.Errorf("afterwards: %+v", p)
	}
}

func TestUserRate(t *testing.T) {
	f := newFixture(t, func(_ *oidc.ProviderConfig, c *Config) { c.Limits.UserPerMinute = 2 })
	newDesktop(f).login(nil)
	newDesktop(f).login(nil)
	_, err := f.client.Login(t.Context(), newDesktop(f).loginRequest(nil))
	wantCode(t, err, enroll.CodeRateLimited)
	bob := newDesktop(f)
	bob.subject = "bob"
	bob.login(nil)
}

func TestLimiterTableIsBounded(t *testing.T) {
	clock := &testClock{t: time.Now()}
	l := newLimiter[int](1, 10, clock.now)
	for i := range 1000 {
		if l.take(i) != 0 {
			t.Fatal("a fresh key was limited")
		}
	}
	if len(l.buckets) != 10 || l.order.Len() != 10 {
		t.Errorf("%d keys", len(l.buckets))
	}
	if wait := l.take(999); wait != time.Minute {
		t.Errorf("wait %s", wait)
	}
	clock.advance(time.Minute)
	if wait := l.take(999); wait != 0 {
		t.Errorf("a refused try counted: wait %s", wait)
	}
}

func TestAddressKeys(t *testing.T) {
	for a, b := range map[string]string{
		"192.0.2.1:1": "[::ffff:192.0.2.1]:2", "[2001:db8::1]:1": "[2001:db8::ffff:1]:2", "[fe80::1%a]:1": "[fe80::2%b]:2",
	} {
		if addressOf(netip.MustParseAddrPort(a)) != addressOf(netip.MustParseAddrPort(b)) {
			t.Errorf("%s and %s are two", a, b)
		}
	}
	if addressOf(netip.MustParseAddrPort("192.0.2.1:1")) == addressOf(netip.MustParseAddrPort("192.0.2.2:1")) {
		t.Error("two IPv4 addresses are one")
	}
	addressOf(netip.AddrPort{})
}

func TestGroupFilter(t *testing.T) {
	groups := []string{"it", "vpn-lab", "/org/vpn"}
	for _, c := range []struct {
		filter groupFilter
		want   string
	}{
		{groupFilter{}, "it vpn-lab /org/vpn"},
		{groupFilter{patterns: []string{"it"}}, "it"},
		{groupFilter{patterns: []string{"vpn-*"}}, "vpn-lab"},
		{groupFilter{patterns: []string{"*vpn*"}}, "vpn-lab /org/vpn"},
		{groupFilter{patterns: []string{"*/vpn", "none"}}, "/org/vpn"},
		{groupFilter{patterns: []string{"it"}, qualified: true}, ""},
		{groupFilter{patterns: []string{"corp/it", "partner/*"}, qualified: true}, "it"},
		{groupFilter{patterns: []string{"corp/*"}, qualified: true}, "it vpn-lab /org/vpn"},
		{groupFilter{patterns: []string{"i*t*t"}}, ""},
	} {
		if got := strings.Join(c.filter.apply("corp", groups), " "); got != c.want {
			t.Errorf("%+v keeps %q, want %q", c.filter, got, c.want)
		}
	}
}

// Faults: provider down → enrolment says so clearly, and names it; what is issued goes on.
func TestFaultProviderDown(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	req := d.loginRequest(nil)
	f.idp.Close()
	_, err := f.client.Login(t.Context(), req)
	p := wantCode(t, err, enroll.CodeProviderUnavailable)
	if !strings.Contains(p.Detail, "corp") || !strings.Contains(p.Detail, f.idp.URL) || p.RetryAfter == 0 || !p.Temporary() {
		t.Errorf("%+v", p)
	}
}

// Faults: database down → no issuance, and a clear 503.
func TestFaultDatabaseDown(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	resp := d.login(nil)
	renewal := d.renewRequest(resp, nil)
	if err := f.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := f.client.Login(t.Context(), newDesktop(f).loginRequest(nil))
	if p := wantCode(t, err, enroll.CodeStoreUnavailable); p.RetryAfter == 0 || !p.Temporary() {
		t.Errorf("%+v", p)
	}
	_, err = f.client.Renew(t.Context(), renewal)
	wantCode(t, err, enroll.CodeStoreUnavailable)
	if _, err := f.client.Discover(t.Context()); err != nil {
		t.Errorf("discovery: %v", err)
	}
}

// brokenAudit refuses to record issuance.
type brokenAudit struct{ broken bool }

func (a *brokenAudit) Append(context.Context, audit.Record) (audit.Receipt, error) {
	if a.broken {
		return audit.Receipt{}, errors.New("disk full")
	}
	return audit.Receipt{}, nil
}

// Faults: audit disk full → nothing is issued, and the retry gets the certificate
// that was made.
func TestFaultAuditDiskFull(t *testing.T) {
	f := newFixture(t)
	broken := &brokenAudit{broken: true}
	f.handler.Audit = broken
	req := newDesktop(f).loginRequest(nil)
	_, err := f.client.Login(t.Context(), req)
	if p := wantCode(t, err, enroll.CodeUnavailable); !strings.Contains(p.Detail, "audit") {
		t.Errorf("%+v", p)
	}
	broken.broken = false
	if _, err := f.client.Login(t.Context(), req); err != nil {
		t.Error(err)
	}
}

// Local surfaces: secrets leak (Boundary CVE-2023-0690): no token in log, audit,
// database or answer, whether it was accepted or not.
func TestThreatNoTokenIsEverWritten(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	good := d.loginRequest(nil)
	bad := d.loginRequest(map[string]any{"aud": "other"})
	resp, err := f.client.Login(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	_, badErr := f.client.Login(t.Context(), bad)
	f.clock.advance(time.Minute)
	renewal := d.renewRequest(resp, nil)
	if _, err := f.client.Renew(t.Context(), renewal); err != nil {
		t.Fatal(err)
	}
	garbage := d.loginRequest(nil)
	garbage.IDToken, garbage.AccessToken = "canary.id.token", "canary-access"
	_, garbageErr := f.client.Login(t.Context(), garbage)
	_, typeErr := post(t, f, enroll.PathLogin, "application/json", strings.NewReader(`{"id_token":{"canary":1}}`))

	places := f.log.String() + f.auditText() + fmt.Sprint(badErr, garbageErr, typeErr)
	files, _ := filepath.Glob(filepath.Join(f.dir, "state", "*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		places += string(data)
	}
	for name, token := range map[string]oidc.Secret{
		"accepted": good.IDToken, "refused": bad.IDToken, "renewal": renewal.IDToken, "garbage": "canary",
		"salt": oidc.Secret(d.salt), "challenge": oidc.Secret(renewal.Challenge),
	} {
		text := token.Reveal()
		_, signature, _ := strings.Cut(text, ".")
		if strings.Contains(places, text) || (signature != "" && strings.Contains(places, signature)) {
			t.Errorf("the %s token was written", name)
		}
	}
}

// FuzzRequests sends anything to every path: there is always an answer, and never a
// certificate.
func FuzzRequests(f *testing.F) {
	f.Add(0, []byte(`{"provider":"corp","id_token":"a.b.c","salt":"AA==","csr":"AA==","device_key":"AA==","device_signature":"AA=="}`))
	f.Add(1, []byte(`{"serial":"00000000000000000000000000000000"}`))
	f.Add(2, []byte(`{"provider":"corp","certificate":"AA==","challenge":"AA==","signature":"AA=="}`))
	f.Add(3, []byte(`{"provider":"corp","csr":"MAA="}`))
	f.Add(4, []byte(`{"id":"x","signature":"AA=="}`))
	f.Add(5, []byte(`{"provider":"corp","id_token":"a.b.c","salt":"AA==","certificate":"AA==","challenge":"AA==","signature":"AA=="}`))
	paths := []string{enroll.PathLogin, enroll.PathChallenge, enroll.PathRenew, enroll.PathDevice, enroll.PathDevicePoll, enroll.PathStepUp}
	h := newFixture(f).handler
	f.Fuzz(func(t *testing.T, which int, body []byte) {
		req := httptest.NewRequest(http.MethodPost, paths[uint(which)%uint(len(paths))], bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		var p enroll.Problem
		if w.Code < 400 || w.Code >= 500 || json.Unmarshal(w.Body.Bytes(), &p) != nil || p.Code == "" {
			t.Errorf("%s: %d %s", req.URL.Path, w.Code, w.Body)
		}
	})
}
