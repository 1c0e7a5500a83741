package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Client asks one gateway. It is safe for concurrent use. Errors are a [*Problem] where the gateway refused.
type Client struct {
	// HTTP reaches the gateway: its transport opens a stream to the built-in service, or the gateway's socket. Required; a
	// nil one refuses, so that nothing is ever asked over the network by mistake. It must not follow redirects: the API
	// has none.
	HTTP *http.Client
	// Base is "http://" and the service. Optional; the default is the service that a method is for.
	Base string
}

// Whoami says whom the gateway takes the caller for.
func (c *Client) Whoami(ctx context.Context) (*Whoami, error) {
	return call[Whoami](ctx, c, http.MethodGet, "/v1/whoami", nil, nil)
}

// OpenAPI gets the OpenAPI document.
func (c *Client) OpenAPI(ctx context.Context) (json.RawMessage, error) {
	doc, err := call[json.RawMessage](ctx, c, http.MethodGet, "/v1/openapi.json", nil, nil)
	if err != nil {
		return nil, err
	}
	return *doc, nil
}

// Policy gets the policy in force.
func (c *Client) Policy(ctx context.Context) (*PolicyDocument, error) {
	return call[PolicyDocument](ctx, c, http.MethodGet, "/v1/policy", nil, nil)
}

// PolicyVersions lists the accepted policies, the newest first.
func (c *Client) PolicyVersions(ctx context.Context, q List) (*Page[PolicyVersion], error) {
	return call[Page[PolicyVersion]](ctx, c, http.MethodGet, "/v1/policy/versions", q, nil)
}

// PolicyVersion gets one accepted policy.
func (c *Client) PolicyVersion(ctx context.Context, number int64) (*PolicyDocument, error) {
	return call[PolicyDocument](ctx, c, http.MethodGet, "/v1/policy/versions/"+strconv.FormatInt(number, 10), nil, nil)
}

// PolicyCheck asks whether a policy would be accepted. A policy that would not is no error.
func (c *Client) PolicyCheck(ctx context.Context, document string) (*PolicyCheck, error) {
	return call[PolicyCheck](ctx, c, http.MethodPost, "/v1/policy/check", nil, PolicyText{document})
}

// PolicyApply puts a policy into force.
func (c *Client) PolicyApply(ctx context.Context, req PolicyApply) (*PolicyApplied, error) {
	return call[PolicyApplied](ctx, c, http.MethodPost, "/v1/policy/apply", nil, req)
}

// PolicyRollback applies the document of an earlier version as a new version.
func (c *Client) PolicyRollback(ctx context.Context, req PolicyRollback) (*PolicyApplied, error) {
	return call[PolicyApplied](ctx, c, http.MethodPost, "/v1/policy/rollback", nil, req)
}

// PolicyDiff asks what a policy would change. progress is told how far the preview is; it may be nil. Ending ctx ends the
// work at the gateway, too.
func (c *Client) PolicyDiff(ctx context.Context, req PolicyDiff, progress func(DiffProgress)) (*DiffResult, error) {
	resp, err := c.send(ctx, http.MethodPost, "/v1/policy/diff", nil, req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || mediaType(resp.Header) != TypeLines {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, MaxRequest))
		return nil, ParseProblem(resp, body)
	}
	return readDiff(resp.Body, progress)
}

func readDiff(body io.Reader, progress func(DiffProgress)) (*DiffResult, error) {
	dec := json.NewDecoder(io.LimitReader(body, MaxReply))
	for {
		var line DiffLine
		err := dec.Decode(&line)
		switch {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("read the difference: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return nil, fmt.Errorf("read the difference: %w", err)
		case line.Problem != nil:
			return nil, line.Problem
		case line.Result != nil:
			return line.Result, nil
		case line.Progress != nil && progress != nil:
			progress(*line.Progress)
		}
	}
}

// PolicyExplain asks how a target would be decided.
func (c *Client) PolicyExplain(ctx context.Context, req PolicyExplain) (*Explanation, error) {
	return call[Explanation](ctx, c, http.MethodPost, "/v1/policy/explain", nil, req)
}

// PolicyWho asks who reaches a service.
func (c *Client) PolicyWho(ctx context.Context, q WhoQuery) (*Page[Access], error) {
	return call[Page[Access]](ctx, c, http.MethodGet, "/v1/policy/who", q, nil)
}

// PolicyWhat asks what a user reaches.
func (c *Client) PolicyWhat(ctx context.Context, q WhatQuery) (*Page[Access], error) {
	return call[Page[Access]](ctx, c, http.MethodGet, "/v1/policy/what", q, nil)
}

// Sessions lists sessions.
func (c *Client) Sessions(ctx context.Context, q SessionQuery) (*Page[Session], error) {
	return call[Page[Session]](ctx, c, http.MethodGet, "/v1/sessions", q, nil)
}

// Session gets one session.
func (c *Client) Session(ctx context.Context, id string) (*SessionDetail, error) {
	return call[SessionDetail](ctx, c, http.MethodGet, "/v1/sessions/"+url.PathEscape(id), nil, nil)
}

// EndSession ends a session for good.
func (c *Client) EndSession(ctx context.Context, id, reason string) (*SessionEnded, error) {
	return call[SessionEnded](ctx, c, http.MethodPost, "/v1/sessions/"+url.PathEscape(id)+"/end", nil, SessionEnd{reason})
}

// Locks lists the locks in force.
func (c *Client) Locks(ctx context.Context, q List) (*Page[Lock], error) {
	return call[Page[Lock]](ctx, c, http.MethodGet, "/v1/locks", q, nil)
}

// AddLock locks somebody or something out.
func (c *Client) AddLock(ctx context.Context, req LockAdd) (*LockAdded, error) {
	return call[LockAdded](ctx, c, http.MethodPost, "/v1/locks", nil, req)
}

// RemoveLock lifts a lock.
func (c *Client) RemoveLock(ctx context.Context, id string) (*Done, error) {
	return call[Done](ctx, c, http.MethodDelete, "/v1/locks/"+url.PathEscape(id), nil, nil)
}

// Requests lists requests.
func (c *Client) Requests(ctx context.Context, q RequestQuery) (*Page[Request], error) {
	return call[Page[Request]](ctx, c, http.MethodGet, "/v1/requests", q, nil)
}

// Request gets one request.
func (c *Client) Request(ctx context.Context, id string) (*Request, error) {
	return call[Request](ctx, c, http.MethodGet, "/v1/requests/"+url.PathEscape(id), nil, nil)
}

// ApproveRequest approves a request of somebody else.
func (c *Client) ApproveRequest(ctx context.Context, id, note string) (*RequestDecided, error) {
	return c.decide(ctx, id, "/approve", note)
}

// DenyRequest denies a request of somebody else.
func (c *Client) DenyRequest(ctx context.Context, id, note string) (*RequestDecided, error) {
	return c.decide(ctx, id, "/deny", note)
}

// EndRequest ends an approved request before its time.
func (c *Client) EndRequest(ctx context.Context, id, note string) (*RequestDecided, error) {
	return c.decide(ctx, id, "/end", note)
}

func (c *Client) decide(ctx context.Context, id, what, note string) (*RequestDecided, error) {
	return call[RequestDecided](ctx, c, http.MethodPost, "/v1/requests/"+url.PathEscape(id)+what, nil, RequestDecide{note})
}

// Audit lists audit records, the newest first.
func (c *Client) Audit(ctx context.Context, q AuditQuery) (*Page[AuditRecord], error) {
	return call[Page[AuditRecord]](ctx, c, http.MethodGet, "/v1/audit", q, nil)
}

// AuditReference gets the records with a reference.
func (c *Client) AuditReference(ctx context.Context, reference string) (*AuditReference, error) {
	return call[AuditReference](ctx, c, http.MethodGet, "/v1/audit/"+url.PathEscape(reference), nil, nil)
}

// Devices lists the devices that people logged in with.
func (c *Client) Devices(ctx context.Context, q DeviceQuery) (*Page[DeviceEntry], error) {
	return call[Page[DeviceEntry]](ctx, c, http.MethodGet, "/v1/devices", q, nil)
}

// Certificates lists certificates of the inventory.
func (c *Client) Certificates(ctx context.Context, q CertificateQuery) (*Page[Certificate], error) {
	return call[Page[Certificate]](ctx, c, http.MethodGet, "/v1/certificates", q, nil)
}

// Gateways lists the gateways that share the database.
func (c *Client) Gateways(ctx context.Context, q List) (*Page[Gateway], error) {
	return call[Page[Gateway]](ctx, c, http.MethodGet, "/v1/gateways", q, nil)
}

// Users lists the people whom the gateways have seen.
func (c *Client) Users(ctx context.Context, q UserQuery) (*Page[User], error) {
	return call[Page[User]](ctx, c, http.MethodGet, "/v1/users", q, nil)
}

// Ask asks for a service for some time. This method and the next two are for [ServiceSelf].
func (c *Client) Ask(ctx context.Context, req RequestNew) (*RequestDecided, error) {
	return call[RequestDecided](ctx, c.self(), http.MethodPost, "/v1/own/requests", nil, req)
}

// OwnRequests lists the caller's own requests.
func (c *Client) OwnRequests(ctx context.Context, q OwnRequestQuery) (*Page[Request], error) {
	return call[Page[Request]](ctx, c.self(), http.MethodGet, "/v1/own/requests", q, nil)
}

// Withdraw takes an own request back.
func (c *Client) Withdraw(ctx context.Context, id string) (*RequestDecided, error) {
	return call[RequestDecided](ctx, c.self(), http.MethodPost, "/v1/own/requests/"+url.PathEscape(id)+"/withdraw", nil, nil)
}

func (c *Client) self() *Client {
	if c.Base != "" {
		return c
	}
	return &Client{HTTP: c.HTTP, Base: "http://" + ServiceSelf}
}

// call sends one message and reads one reply, both bounded.
func call[T any](ctx context.Context, c *Client, method, path string, query, in any) (*T, error) {
	resp, err := c.send(ctx, method, path, query, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxReply+1))
	if err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	if len(body) > MaxReply {
		return nil, fmt.Errorf("the gateway's answer is larger than %d MiB", MaxReply>>20)
	}
	if resp.StatusCode != http.StatusOK || mediaType(resp.Header) != TypeJSON {
		return nil, ParseProblem(resp, body)
	}
	out := new(T)
	if err := Decode(body, out, Lenient); err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return out, nil
}

func (c *Client) send(ctx context.Context, method, path string, query, in any) (*http.Response, error) {
	if c.HTTP == nil {
		return nil, errors.New("ask the gateway: no connection was given")
	}
	base := strings.TrimRight(c.Base, "/")
	if base == "" {
		base = "http://" + ServiceAdmin
	}
	var body io.Reader = http.NoBody
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	if query != nil {
		if values := EncodeQuery(query); len(values) > 0 {
			path += "?" + values.Encode()
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, fmt.Errorf("build the request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", TypeJSON)
	}
	req.Header.Set("Accept", TypeJSON)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the gateway: %w", err)
	}
	return resp, nil
}
