package admin

import (
	"context"
	"errors"
	"strings"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// maxCandidates is how many people an ambiguous name lists.
const maxCandidates = 20

// maxSameAddress bounds the people with one address that are looked at: an address is whatever a provider says, also of thousands of
// accounts that somebody makes up at theirs.
const maxSameAddress = 1000

// user finds whom USER names: provider:sub:SUBJECT, provider:EMAIL, an e-mail address, or a user id. An address is compared
// as the providers gave it, trusted or not: it is for finding people. Whom it finds is named by id in what follows.
func (a *API) user(ctx context.Context, text string) (store.User, error) {
	if !plainText(text) {
		return store.User{}, refuse(adminapi.CodeBadRequest, "USER is at most %d bytes without control characters", maxName)
	}
	if provider, rest, ok := strings.Cut(text, ":"); ok {
		if subject, ok := strings.CutPrefix(rest, "sub:"); ok {
			return a.userBySubject(ctx, provider, subject)
		}
		return a.userByEmail(ctx, provider, rest, text)
	}
	if strings.Contains(text, "@") {
		return a.userByEmail(ctx, "", text, text)
	}
	u, err := a.Inventory.User(ctx, auth.UserID(text))
	return u, orNobody(err, text)
}

// userID is like user for who may not have been seen yet: a subject of a known provider, and an id, name somebody in any case.
func (a *API) userID(ctx context.Context, text string) (auth.UserID, error) {
	u, err := a.user(ctx, text)
	if err == nil {
		return u.ID, nil
	}
	if r := asRefusal(err); r.problem.Code != adminapi.CodeNotFound {
		return "", err
	}
	if provider, rest, _ := strings.Cut(text, ":"); strings.HasPrefix(rest, "sub:") && len(rest) > len("sub:") {
		if issuer, ok := a.Issuer(provider); ok {
			return auth.NewUserID(issuer, strings.TrimPrefix(rest, "sub:")), nil
		}
	}
	// A user id and a device id are hashes of one length.
	if _, bad := auth.ParseDeviceID(text); bad == nil {
		return auth.UserID(text), nil
	}
	return "", err
}

func (a *API) userBySubject(ctx context.Context, provider, subject string) (store.User, error) {
	issuer, ok := a.Issuer(provider)
	if !ok {
		return store.User{}, refuse(adminapi.CodeNotFound, "there is no provider %q", plaintext.Clip(provider, 64))
	}
	u, err := a.Inventory.User(ctx, auth.NewUserID(issuer, subject))
	return u, orNobody(err, provider+":sub:"+subject)
}

func (a *API) userByEmail(ctx context.Context, provider, email, text string) (store.User, error) {
	found, err := a.Inventory.UsersByEmail(ctx, email, maxSameAddress)
	if err != nil {
		return store.User{}, err
	}
	var list []store.User
	for _, u := range found {
		if provider == "" || u.Provider == provider {
			list = append(list, u)
		}
	}
	switch all := len(found) < maxSameAddress; {
	case all && len(list) == 0:
		return store.User{}, nobody(text)
	case all && len(list) == 1:
		return list[0], nil
	}
	var candidates []adminapi.Person
	for _, u := range list[:min(len(list), maxCandidates)] {
		candidates = append(candidates, personOf(u))
	}
	return store.User{}, refuse(adminapi.CodeAmbiguous, "%q could be any of several people", plaintext.Clip(text, 128)).
		remedy("name one by id, or by provider:sub:SUBJECT").among(candidates)
}

func orNobody(err error, text string) error {
	if errors.Is(err, store.ErrNotFound) {
		return nobody(text)
	}
	return err
}

func nobody(text string) *refusal {
	return refuse(adminapi.CodeNotFound, "no gateway has seen a user %q", plaintext.Clip(text, 128)).
		remedy("USER is provider:email, an e-mail address, provider:sub:SUBJECT or a user id")
}

// optionalUser resolves a filter; an empty one selects everybody.
func (a *API) optionalUser(ctx context.Context, text string) (auth.UserID, error) {
	if text == "" {
		return "", nil
	}
	return a.userID(ctx, text)
}

func personOf(u store.User) adminapi.Person {
	return adminapi.Person{ID: string(u.ID), Provider: u.Provider, Name: u.Name, Email: u.Email}
}

func userOf(u store.User) adminapi.User {
	return adminapi.User{
		Person: personOf(u), Issuer: u.Issuer, Subject: u.Subject, EmailTrusted: u.EmailTrusted,
		GroupsKnown: u.GroupsKnown, Groups: u.Groups, ACR: u.ACR, Login: string(u.LastLogin),
		FirstSeen: u.FirstSeen, LastSeen: u.LastSeen,
	}
}

// identityOf is a user as their last login described them. A login of now is assumed, with what is not known of it left out.
func (a *API) identityOf(u store.User) auth.Identity {
	return auth.Identity{
		Issuer: u.Issuer, Subject: u.Subject, Provider: u.Provider, Name: u.Name, Email: u.Email, EmailTrusted: u.EmailTrusted,
		Groups: u.Groups, GroupsKnown: u.GroupsKnown, ACR: u.ACR, AMR: u.AMR, AuthTime: a.Now(), Login: u.LastLogin,
	}
}

func (a *API) subjectOf(u store.User) *policy.Subject {
	return policy.NewSubject(a.identityOf(u), policy.Device{})
}

// names finds the people of ids that lists hold, each once.
type names struct {
	a     *API
	known map[auth.UserID]adminapi.Person
}

func (a *API) names() *names { return &names{a, make(map[auth.UserID]adminapi.Person)} }

// of returns a person; one whom nobody has seen, or who cannot be asked for now, has an id only.
func (n *names) of(ctx context.Context, id auth.UserID) adminapi.Person {
	if p, ok := n.known[id]; ok {
		return p
	}
	p := adminapi.Person{ID: string(id)}
	if u, err := n.a.Inventory.User(ctx, id); err == nil {
		p = personOf(u)
	}
	n.known[id] = p
	return p
}

// recorded is a person as audit records have them: by the id, which is theirs alone, and as people call them.
func (n *names) recorded(ctx context.Context, id auth.UserID) string {
	p := n.of(ctx, id)
	if p.Email == "" {
		return string(id)
	}
	return string(id) + " (" + p.Provider + ":" + p.Email + ")"
}

// users lists the people seen.
func (a *API) users(ctx context.Context, _ *call, q adminapi.UserQuery) (*adminapi.Page[adminapi.User], error) {
	if q.User != "" {
		u, err := a.user(ctx, q.User)
		if err != nil {
			return nil, err
		}
		return &adminapi.Page[adminapi.User]{Items: []adminapi.User{userOf(u)}}, nil
	}
	limit := limitOf(q.List)
	rows, err := a.Inventory.Users(ctx, auth.UserID(q.Cursor), limit+1)
	if err != nil {
		return nil, err
	}
	return pageOf(rows, limit, userOf, func(u store.User) string { return string(u.ID) }), nil
}
