package admin

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func (a *API) policyExplain(ctx context.Context, _ *call, m adminapi.PolicyExplain) (*adminapi.Explanation, error) {
	set, err := a.setFor(m.Document)
	if err != nil {
		return nil, err
	}
	target, err := parseTarget(set, m.Target)
	if err != nil {
		return nil, err
	}
	req := policy.Request{Target: target, Now: a.at(m.At), Opening: true}
	if req.Client, err = parseClient(m.Client); err != nil {
		return nil, err
	}
	id, known, err := a.explained(ctx, m, req.Now)
	if err != nil {
		return nil, err
	}
	e := set.Explain(policy.NewSubject(id, deviceOf(m.Device)), req)
	reply := &adminapi.Explanation{Policy: set.Version(), Subject: known, Answer: decisionOf(e.Decision), Rules: tracesOf(e.Rules)}
	for _, at := range e.Addresses {
		reply.Addresses = append(reply.Addresses, adminapi.AddressTrace{Address: at.Address.String(), Answer: decisionOf(at.Decision), Rules: tracesOf(at.Rules)})
	}
	return reply, nil
}

func tracesOf(rules []policy.RuleTrace) []adminapi.RuleTrace {
	list := make([]adminapi.RuleTrace, 0, len(rules))
	for _, r := range rules {
		list = append(list, adminapi.RuleTrace{
			Name: r.Name, Service: r.Service, Line: r.Pos.Line, Effect: string(r.Effect), Outcome: string(r.Outcome),
			Failed: criteriaOf(r.Failed), Doubts: criteriaOf(r.Doubts),
		})
	}
	return list
}

// at is the moment that a question is for.
func (a *API) at(t time.Time) time.Time {
	if t.IsZero() {
		return a.Now()
	}
	return t
}

// setFor returns the policy in force, or the one of a document. One whose tests fail decides, too: that is when somebody
// wants to know why.
func (a *API) setFor(document string) (*policy.Set, error) {
	if document == "" {
		if set := a.Policies.Set(); set != nil {
			return set, nil
		}
		return nil, refuse(adminapi.CodeNotFound, "there is no policy yet, so nothing is allowed")
	}
	set, err := a.load(document)
	if set == nil {
		return nil, invalid(checkOf(document, set, err))
	}
	return set, nil
}

// parseTarget reads a service's name, or a host and a port, with "/udp" behind what is not tcp. A service is asked for as what it
// carries.
func parseTarget(set *policy.Set, text string) (wire.Target, error) {
	kind := wire.KindTCP
	if rest, ok := strings.CutSuffix(text, "/udp"); ok {
		kind, text = wire.KindUDP, rest
	}
	t := wire.ServiceTarget(kind, text)
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		port, err := strconv.ParseUint(text[i+1:], 10, 16)
		if err != nil {
			return t, refuse(adminapi.CodeBadRequest, "the target %q is no service, NAME:PORT or ADDRESS:PORT", plaintext.Clip(text, 128))
		}
		host := strings.TrimSuffix(strings.TrimPrefix(text[:i], "["), "]")
		t = wire.HostTarget(kind, host, uint16(port))
	}
	for _, s := range set.Document().Services {
		if s.Name == text && s.Kind != "" {
			t.Kind = s.Kind
		}
	}
	if err := t.Validate(); err != nil {
		return t, refuse(adminapi.CodeBadRequest, "the target %q is no service, NAME:PORT or ADDRESS:PORT", plaintext.Clip(text, 128)).because(err)
	}
	return t, nil
}

func parseClient(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return addr, refuse(adminapi.CodeBadRequest, "the client %q is no address", plaintext.Clip(text, 64))
	}
	return addr.Unmap(), nil
}

// explained is the person that a question is about, and what is known of them. Somebody whom nobody has seen is made up where
// the question says which groups they would have.
func (a *API) explained(ctx context.Context, m adminapi.PolicyExplain, at time.Time) (auth.Identity, *adminapi.User, error) {
	id := auth.Identity{GroupsKnown: m.Groups != nil, AuthTime: at, Login: auth.LoginBrowser}
	var known *adminapi.User
	if m.User != "" {
		u, err := a.user(ctx, m.User)
		switch {
		case err == nil:
			id = a.identityOf(u)
			seen := userOf(u)
			known = &seen
		case m.Groups != nil && asRefusal(err).problem.Code == adminapi.CodeNotFound:
			id = a.madeUp(m.User)
		default:
			return id, nil, err
		}
	}
	if m.Groups != nil {
		a.putInto(&id, *m.Groups)
	}
	id.AuthTime = at
	if m.Auth == nil {
		return id, known, nil
	}
	if m.Auth.Age != nil {
		id.AuthTime = at.Add(-time.Duration(*m.Auth.Age))
	}
	switch kind := auth.LoginKind(m.Auth.Login); kind {
	case auth.LoginBrowser, auth.LoginDevice:
		id.Login = kind
	case "":
	default:
		return id, nil, refuse(adminapi.CodeBadRequest, "the login is login or device")
	}
	if m.Auth.ACR != "" {
		id.ACR = m.Auth.ACR
	}
	if m.Auth.AMR != nil {
		id.AMR = m.Auth.AMR
	}
	return id, known, nil
}

// putInto says which groups somebody is in. They may be written with their provider, as policies do where there are several.
func (a *API) putInto(id *auth.Identity, groups []string) {
	id.Groups, id.GroupsKnown = slices.Clone(groups), true
	for _, g := range groups {
		provider, group, ok := strings.Cut(g, "/")
		if _, known := a.Issuer(provider); !ok || !known || id.Provider != "" && id.Provider != provider {
			continue
		}
		id.Provider = provider
		id.Groups = append(id.Groups, group)
	}
}

// madeUp is a person as their first login could describe them.
func (a *API) madeUp(text string) auth.Identity {
	id := auth.Identity{Login: auth.LoginBrowser}
	provider, rest, qualified := strings.Cut(text, ":")
	if !qualified {
		provider, rest = "", text
	}
	id.Provider = provider
	if subject, ok := strings.CutPrefix(rest, "sub:"); ok {
		id.Subject = subject
		id.Issuer, _ = a.Issuer(provider)
	} else if strings.Contains(rest, "@") {
		id.Email, id.EmailTrusted = rest, true
	}
	return id
}

func deviceOf(d *adminapi.Device) policy.Device {
	if d == nil {
		return policy.Device{}
	}
	return policy.Device{
		OS: d.OS, OSVersion: d.OSVersion, Arch: d.Arch, ClientVersion: d.ClientVersion,
		DiskEncrypted: tri(d.DiskEncrypted), Firewall: tri(d.Firewall), ScreenLock: tri(d.ScreenLock), HardwareKey: tri(d.HardwareKey),
	}
}

func tri(b *bool) policy.Tri {
	switch {
	case b == nil:
		return policy.Unknown
	case *b:
		return policy.Yes
	}
	return policy.No
}

func decisionOf(d policy.Decision) adminapi.Decision {
	reply := adminapi.Decision{
		Allowed: d.Allowed, Service: d.ServiceName(), Rule: d.Rule, Code: string(d.Code), Condition: string(d.Condition),
		Reason: d.Reason, Remedy: d.Remedy, Until: d.Until,
	}
	if d.StepUp != nil {
		reply.StepUp = adminapi.Duration(d.StepUp.MaxAge)
	}
	return reply
}

func criteriaOf(list []policy.Criterion) []adminapi.Criterion {
	var reply []adminapi.Criterion
	for _, c := range list {
		reply = append(reply, adminapi.Criterion{What: c.What, Detail: c.Detail})
	}
	return reply
}

// policyWho decides for a page of the people seen. Who does not reach the service is left out unless all are asked for.
func (a *API) policyWho(ctx context.Context, _ *call, q adminapi.WhoQuery) (*adminapi.Page[adminapi.Access], error) {
	set, err := a.setFor("")
	if err != nil {
		return nil, err
	}
	limit := limitOf(q.List)
	users, err := a.Inventory.Users(ctx, auth.UserID(q.Cursor), limit+1)
	if err != nil {
		return nil, err
	}
	page := &adminapi.Page[adminapi.Access]{Items: []adminapi.Access{}}
	if len(users) > limit {
		users = users[:limit]
		page.Next = string(users[limit-1].ID)
	}
	subjects := make([]*policy.Subject, len(users))
	for i, u := range users {
		subjects[i] = a.subjectOf(u)
	}
	list, err := set.Who(q.Service, subjects, a.at(q.At))
	if err != nil {
		return nil, refuse(adminapi.CodeNoService, "%s", plaintext.Clip(err.Error(), 200))
	}
	for i, access := range list {
		if q.All || access.Grant != "" || access.Decision.Allowed {
			page.Items = append(page.Items, accessOf(users[i], access))
		}
	}
	return page, nil
}

func (a *API) policyWhat(ctx context.Context, _ *call, q adminapi.WhatQuery) (*adminapi.Page[adminapi.Access], error) {
	set, err := a.setFor("")
	if err != nil {
		return nil, err
	}
	u, err := a.user(ctx, q.User)
	if err != nil {
		return nil, err
	}
	list := set.What(a.subjectOf(u), a.at(q.At))
	first := 0
	if q.Cursor != "" {
		if first, err = strconv.Atoi(q.Cursor); err != nil || first < 0 || first > len(list) {
			return nil, badCursor()
		}
	}
	limit := limitOf(q.List)
	page := &adminapi.Page[adminapi.Access]{Items: []adminapi.Access{}}
	for _, access := range list[first:min(first+limit, len(list))] {
		page.Items = append(page.Items, accessOf(u, access))
	}
	if first+limit < len(list) {
		page.Next = strconv.Itoa(first + limit)
	}
	return page, nil
}

func accessOf(u store.User, access policy.Access) adminapi.Access {
	return adminapi.Access{User: personOf(u), Service: access.Service, Grant: access.Grant, Decision: decisionOf(access.Decision)}
}
