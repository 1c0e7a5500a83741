package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	jsonType    = "application/json"
	problemType = "application/problem+json"
)

// Client is the desktop's half of the exchange. It is safe for concurrent use.
// Its zero value is not useful: URL is required.
type Client struct {
	// BaseURL is the gateway's address; it must be https. Required.
	BaseURL string
	// HTTP sends the requests and decides which server certificate to trust.
	// Nil means [NewHTTPClient] with the web's roots.
	HTTP *http.Client
	// UserAgent is sent as it is; empty means "culvert".
	UserAgent string
}

// NewHTTPClient gives an HTTP client for the exchange: TLS 1.3, the proxy of the
// environment, time-outs, and no redirects, since a gateway never sends one. conf
// decides the trust; nil means the web's roots.
func NewHTTPClient(conf *tls.Config) *http.Client {
	if conf == nil {
		conf = &tls.Config{}
	} else {
		conf = conf.Clone()
	}
	conf.MinVersion = tls.VersionTLS13
	return &http.Client{
		Timeout: 60 * time.Second,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    15 * time.Second,
			ResponseHeaderTimeout:  45 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(req *http.Request, _ []*http.Request) error {
			return fmt.Errorf("it redirects to %s, which a Culvert gateway never does", req.URL.Host)
		},
	}
}

// Discover gets the gateway's own description. The error is a [*VersionError]
// when there is no common protocol version, a [*Problem] when the gateway
// refused.
func (c *Client) Discover(ctx context.Context) (*Discovery, error) {
	var d Discovery
	if _, err := c.do(ctx, http.MethodGet, PathDiscovery, nil, &d); err != nil {
		return nil, err
	}
	if !slices.Contains(d.Versions, Version) {
		return nil, &VersionError{Ours: Version, Theirs: d.Versions}
	}
	return &d, nil
}

// Login exchanges the ID token of a fresh login for a certificate. A retry with
// the same contents gets the same certificate.
func (c *Client) Login(ctx context.Context, req *LoginRequest) (*Response, error) {
	return c.enrol(ctx, PathLogin, req)
}

// Challenge asks for the challenge that a renewal or a step-up must sign.
func (c *Client) Challenge(ctx context.Context, req *ChallengeRequest) (*ChallengeReply, error) {
	var reply ChallengeReply
	_, err := c.do(ctx, http.MethodPost, PathChallenge, req, &reply)
	return &reply, err
}

// Renew exchanges refreshed tokens for the session's next certificate. A retry
// needs a new challenge, and with the same tokens gets the same certificate.
func (c *Client) Renew(ctx context.Context, req *RenewRequest) (*Response, error) {
	return c.enrol(ctx, PathRenew, req)
}

// StepUp exchanges the ID token of a fresh login for the session's next certificate. A retry needs a new challenge, and with the same
// token gets the same certificate.
func (c *Client) StepUp(ctx context.Context, req *StepUpRequest) (*Response, error) {
	return c.enrol(ctx, PathStepUp, req)
}

// DeviceStart begins a device login that the gateway runs.
func (c *Client) DeviceStart(ctx context.Context, req *DeviceRequest) (*DeviceReply, error) {
	var reply DeviceReply
	_, err := c.do(ctx, http.MethodPost, PathDevice, req, &reply)
	return &reply, err
}

// DevicePoll asks for the outcome of a device login. While nobody has confirmed
// it, the response is nil and wait says how long to wait before the next poll.
func (c *Client) DevicePoll(ctx context.Context, req *DevicePollRequest) (resp *Response, wait time.Duration, err error) {
	var both struct {
		Response
		DevicePending
	}
	status, err := c.do(ctx, http.MethodPost, PathDevicePoll, req, &both)
	if err != nil {
		return nil, 0, err
	}
	if status == http.StatusAccepted {
		return nil, time.Duration(min(max(both.Interval, 1), 60)) * time.Second, nil
	}
	return checkResponse(&both.Response)
}

func (c *Client) enrol(ctx context.Context, path string, req any) (*Response, error) {
	var resp Response
	if _, err := c.do(ctx, http.MethodPost, path, req, &resp); err != nil {
		return nil, err
	}
	r, _, err := checkResponse(&resp)
	return r, err
}

// checkResponse refuses a response that would leave the client without a
// certificate or without roots: the latter must never mean the system's.
func checkResponse(r *Response) (*Response, time.Duration, error) {
	if len(r.Chain) == 0 || len(r.Roots) == 0 || r.Session == "" {
		return nil, 0, errors.New("the gateway's answer lacks the certificate, the roots or the session")
	}
	return r, 0, nil
}

// do sends one message and reads one reply, both bounded.
func (c *Client) do(ctx context.Context, method, path string, in, out any) (status int, err error) {
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return 0, err
	}
	httpClient := c.HTTP
	if httpClient == nil {
		httpClient = NewHTTPClient(nil)
		defer httpClient.CloseIdleConnections()
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask the gateway: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxReply+1))
	if err != nil {
		return 0, fmt.Errorf("read the answer of %s: %w", req.URL.Host, err)
	}
	if len(body) > MaxReply {
		return 0, fmt.Errorf("the answer of %s is larger than %d KiB: this is not a Culvert gateway", req.URL.Host, MaxReply>>10)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return 0, problemFrom(resp, body)
	}
	return resp.StatusCode, readReply(resp, body, out)
}

func readReply(resp *http.Response, body []byte, out any) error {
	if mediaType(resp.Header) != jsonType {
		return problemFrom(resp, nil)
	}
	if err := Decode(body, out); err != nil {
		return fmt.Errorf("read the answer of %s: %w", resp.Request.URL.Host, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	base, err := url.Parse(c.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("parse the gateway's URL: %w", err)
	}
	if base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("the gateway's URL %q must begin with https:// and name a host", base.Redacted())
	}
	var body io.Reader = http.NoBody
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		if len(data) > MaxRequest {
			return nil, fmt.Errorf("the request of %d bytes is over the gateway's bound of %d: the provider's token is too large", len(data), MaxRequest)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base.Scheme+"://"+base.Host+base.Path, "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("build the request: %w", err)
	}
	req.Header.Set("Accept", jsonType)
	if in != nil {
		req.Header.Set("Content-Type", jsonType)
	}
	req.Header.Set("User-Agent", c.userAgent())
	return req, nil
}

func (c *Client) userAgent() string {
	if c.UserAgent == "" {
		return "culvert"
	}
	return c.UserAgent
}

func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}
