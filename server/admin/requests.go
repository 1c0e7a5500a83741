package admin

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// maxRequests bounds the requests that a list is made of, the newest; they are in memory for it.
const maxRequests = 10_000

func requestOf(r store.Request) adminapi.Request {
	return adminapi.Request{
		ID: r.ID, User: adminapi.Person{ID: string(r.User), Provider: r.Provider, Name: r.Name, Email: r.Email},
		Service: r.Service, For: adminapi.Duration(r.For), Reason: r.Reason, State: string(r.State), Created: r.Created,
		DecidedBy: r.DecidedBy, DecidedAt: r.DecidedAt, Note: r.Note, Until: r.Until,
	}
}

func requestPlace(r store.Request) place { return newest(r.Created, r.ID) }

// requests lists all to who has a role, and to the policy's approvers what they may decide. Those learn nothing of people who did not
// ask them: a name is held against the requests they see, and not against everybody known.
func (a *API) requests(ctx context.Context, c *call, q adminapi.RequestQuery) (*adminapi.Page[adminapi.Request], error) {
	filter, viewer := store.RequestFilter{State: store.RequestState(q.State)}, c.caller.Roles.Permit(adminapi.RoleViewer)
	if viewer {
		var err error
		if filter.User, err = a.optionalUser(ctx, q.User); err != nil {
			return nil, err
		}
	}
	list, err := a.Requests.Requests(ctx, filter, maxRequests)
	if err != nil {
		return nil, err
	}
	if !viewer {
		list = slices.DeleteFunc(list, func(r store.Request) bool {
			return !a.approves(&c.caller, r.Service) || q.User != "" && !isFrom(r, q.User)
		})
	}
	return pageFrom(list, q.List, requestOf, requestPlace)
}

// isFrom reports whether text names the one who made a request, by id or address.
func isFrom(r store.Request, text string) bool {
	return text == string(r.User) || r.Email != "" && (strings.EqualFold(text, r.Email) || strings.EqualFold(text, r.Provider+":"+r.Email))
}

// theRequest gets the request that the path names, if the caller may see it: with a role all, else those that the policy
// lets them decide. To others it does not exist.
func (a *API) theRequest(ctx context.Context, c *call) (store.Request, error) {
	id := c.params["id"]
	missing := refuse(adminapi.CodeNotFound, "there is no request %q", plaintext.Clip(id, 64))
	r, err := a.Requests.Request(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return r, missing
	case err != nil:
		return r, err
	case !c.caller.Roles.Permit(adminapi.RoleViewer) && !a.approves(&c.caller, r.Service):
		return r, missing.denial().about("request " + id)
	}
	return r, nil
}

func (a *API) request(ctx context.Context, c *call) (*adminapi.Request, error) {
	r, err := a.theRequest(ctx, c)
	if err != nil {
		return nil, err
	}
	reply := requestOf(r)
	return &reply, nil
}

// decidable gets a request that the caller may decide. Nobody decides their own, whatever role they have and whichever of
// their accounts they come with.
func (a *API) decidable(ctx context.Context, c *call) (store.Request, error) {
	r, err := a.theRequest(ctx, c)
	if err != nil {
		return r, err
	}
	if !a.approves(&c.caller, r.Service) {
		return r, refuse(adminapi.CodeForbidden, "you may not decide requests for %s", plaintext.Clip(r.Service, 64)).
			remedy("the role approver, or the service's approvers in the policy, may").denial().about("request " + r.ID)
	}
	if own(&c.caller, r) {
		return r, ownRequest().about("request " + r.ID)
	}
	return r, nil
}

func ownRequest() *refusal {
	return refuse(adminapi.CodeOwnRequest, "nobody decides their own request").remedy("ask another approver").denial()
}

// own reports whether a request is the caller's. The same address at another provider counts as the same person.
func own(c *Caller, r store.Request) bool {
	return c.Via == ViaTunnel && (c.user() == r.User || r.Email != "" && strings.EqualFold(c.Identity.Email, r.Email))
}

func (a *API) requestApprove(ctx context.Context, c *call, m adminapi.RequestDecide) (*adminapi.RequestDecided, error) {
	return a.decide(ctx, c, m, true)
}

func (a *API) requestDeny(ctx context.Context, c *call, m adminapi.RequestDecide) (*adminapi.RequestDecided, error) {
	return a.decide(ctx, c, m, false)
}

// decide approves or denies. What may be approved is what the policy of now says, not that of when it was asked for.
func (a *API) decide(ctx context.Context, c *call, m adminapi.RequestDecide, approve bool) (*adminapi.RequestDecided, error) {
	if err := checkText("note", m.Note, false); err != nil {
		return nil, err
	}
	r, err := a.decidable(ctx, c)
	if err != nil {
		return nil, err
	}
	if r.State != store.RequestPending {
		return nil, decided(r)
	}
	event, longest := audit.EventRequestDenied, time.Duration(0)
	if approve {
		event = audit.EventRequestApproved
		set := a.Policies.Set()
		terms, ok := requestable(set, r.Service)
		if !ok {
			return nil, refuse(adminapi.CodeNotRequestable, "by the policy in force nobody can ask for %s", plaintext.Clip(r.Service, 64))
		}
		longest = terms.Max
	}
	return a.settle(ctx, c, event, m.Note, r, func(ctx context.Context) (store.Request, error) {
		return a.Requests.DecideRequest(ctx, r.ID, approve, c.caller.name(), c.caller.user(), m.Note, longest)
	})
}

func (a *API) requestEnd(ctx context.Context, c *call, m adminapi.RequestDecide) (*adminapi.RequestDecided, error) {
	if err := checkText("note", m.Note, false); err != nil {
		return nil, err
	}
	r, err := a.theRequest(ctx, c)
	if err != nil {
		return nil, err
	}
	if !a.approves(&c.caller, r.Service) {
		return nil, refuse(adminapi.CodeForbidden, "you may not end requests for %s", plaintext.Clip(r.Service, 64)).denial().about("request " + r.ID)
	}
	if r.State != store.RequestApproved {
		return nil, decided(r)
	}
	return a.settle(ctx, c, audit.EventRequestEnded, m.Note, r, func(ctx context.Context) (store.Request, error) {
		return a.Requests.EndRequest(ctx, r.ID, c.caller.name())
	})
}

// settle changes a request, under a record of its own.
func (a *API) settle(ctx context.Context, c *call, event audit.Event, note string, r store.Request, effect func(context.Context) (store.Request, error)) (*adminapi.RequestDecided, error) {
	record := audit.Record{Event: event, Service: r.Service, Reason: r.Reason, Admin: c.facts("request " + r.ID + " of user " + a.names().recorded(ctx, r.User))}
	record.Admin.Comment = note
	ref, err := a.change(ctx, c, record, func(ctx context.Context) error {
		after, err := effect(ctx)
		switch {
		case errors.Is(err, store.ErrDecided):
			return decided(r).because(err)
		case errors.Is(err, store.ErrOwnRequest):
			return ownRequest().about("request " + r.ID).because(err)
		case errors.Is(err, store.ErrTooMany):
			return refuse(adminapi.CodeTooMany, "too many of your requests wait for an answer").remedy("withdraw one: culvert request withdraw").because(err)
		}
		r = after
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminapi.RequestDecided{Request: requestOf(r), Reference: ref}, nil
}

func decided(r store.Request) *refusal {
	if r.State == store.RequestPending {
		return refuse(adminapi.CodeDecided, "the request was answered or withdrawn meanwhile, or nobody has answered it yet")
	}
	return refuse(adminapi.CodeDecided, "the request is %s already", r.State)
}

func requestable(set *policy.Set, service string) (policy.Requestable, bool) {
	if set == nil {
		return policy.Requestable{}, false
	}
	return set.Requestable(service)
}

// ownRequestNew asks for a service. What would not help is refused at once; so is what the person may not know of.
func (a *API) ownRequestNew(ctx context.Context, c *call, m adminapi.RequestNew) (*adminapi.RequestDecided, error) {
	if err := checkText("reason", m.Reason, true); err != nil {
		return nil, err
	}
	if err := a.checkWish(c, m); err != nil {
		return nil, err
	}
	id := &c.caller.Identity
	r := store.Request{
		ID: audit.NewReference(), User: c.caller.user(), Provider: id.Provider, Name: id.Name, Email: id.Email,
		Service: m.Service, Reason: m.Reason, For: time.Duration(m.For),
	}
	return a.settle(ctx, c, audit.EventRequestCreated, "for "+m.For.String(), r, func(ctx context.Context) (store.Request, error) {
		return a.Requests.PutRequest(ctx, r)
	})
}

// checkWish holds a wish against the policy. A hidden service that the person does not reach is no service to them.
func (a *API) checkWish(c *call, m adminapi.RequestNew) error {
	set := a.Policies.Set()
	name := plaintext.Clip(m.Service, 64)
	service := serviceOf(set, m.Service)
	var d policy.Decision
	if service != nil {
		target, err := parseTarget(set, m.Service)
		if err != nil {
			return err
		}
		d = set.Decide(c.caller.subject(), policy.Request{Target: target, Now: a.Now()})
	}
	terms, ok := requestable(set, m.Service)
	switch {
	case service == nil || service.Hidden && !d.Allowed:
		return refuse(adminapi.CodeNoService, "there is no service %q", name).remedy("run \"culvert services\" to see what there is")
	case d.Allowed:
		return refuse(adminapi.CodeNotRequestable, "%s is open to you already", name)
	case !ok:
		return refuse(adminapi.CodeNotRequestable, "nobody can ask for %s: the policy does not offer it", name)
	case d.Rule != "" && d.Condition == policy.ConditionDenied:
		return refuse(adminapi.CodeNotRequestable, "a rule denies %s to you, and no approval changes that: %s", name, plaintext.Clip(d.Reason, 200))
	case m.For <= 0:
		return refuse(adminapi.CodeBadRequest, "say for how long")
	case time.Duration(m.For) > terms.Max:
		return refuse(adminapi.CodeTooLong, "%s can be had for %s at most", name, adminapi.Duration(terms.Max)).remedy("ask for that or less")
	}
	return nil
}

func serviceOf(set *policy.Set, name string) *policy.Service {
	if set == nil {
		return nil
	}
	for _, s := range set.Document().Services {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func (a *API) ownRequests(ctx context.Context, c *call, q adminapi.OwnRequestQuery) (*adminapi.Page[adminapi.Request], error) {
	list, err := a.Requests.Requests(ctx, store.RequestFilter{State: store.RequestState(q.State), User: c.caller.user()}, maxRequests)
	if err != nil {
		return nil, err
	}
	return pageFrom(list, q.List, requestOf, requestPlace)
}

// ownRequestWithdraw takes a request back. Somebody else's does not exist here.
func (a *API) ownRequestWithdraw(ctx context.Context, c *call) (*adminapi.RequestDecided, error) {
	id, user := c.params["id"], c.caller.user()
	r, err := a.Requests.Request(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if err != nil || r.User != user {
		missing := refuse(adminapi.CodeNotFound, "you have no request %q", plaintext.Clip(id, 64))
		if err == nil {
			return nil, missing.denial().about("request " + r.ID)
		}
		return nil, missing
	}
	if r.State != store.RequestPending && r.State != store.RequestApproved {
		return nil, decided(r)
	}
	return a.settle(ctx, c, audit.EventRequestWithdrawn, "", r, func(ctx context.Context) (store.Request, error) {
		return a.Requests.WithdrawRequest(ctx, id, user)
	})
}
