package policy

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// A Grant is an approved request: a person may reach a service until a moment, while the policy says that the service
// can be requested.
type Grant struct {
	ID      string
	User    auth.UserID
	Service string
	Until   time.Time
}

// Grants is the table of approved requests. It outlives policies: share one between successive sets. It is safe for
// concurrent use; its zero value is empty.
type Grants struct {
	mu sync.RWMutex
	of map[grantKey]*granted
}

// granted is a Grant with what decisions say of it.
type granted struct {
	Grant
	rule string
}

type grantKey struct {
	user    auth.UserID
	service string
}

// NewGrants returns an empty table.
func NewGrants() *Grants { return new(Grants) }

// Replace makes the list the whole table. Of several grants of one service to one person the longest counts. It
// reports whether something changed: whether open streams have to be decided again.
func (g *Grants) Replace(list []Grant) (changed bool) {
	next := make(map[grantKey]*granted, len(list))
	for _, one := range list {
		k := grantKey{one.User, one.Service}
		if had := next[k]; had == nil || one.Until.After(had.Until) {
			next[k] = &granted{one, "request " + one.ID}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if maps.EqualFunc(g.of, next, (*granted).equal) {
		return false
	}
	g.of = next
	return true
}

func (g *granted) equal(other *granted) bool { return g.ID == other.ID && g.Until.Equal(other.Until) }

// find returns what is granted to a person for a service, or nil; it may be over.
func (g *Grants) find(user auth.UserID, service string) *granted {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.of[grantKey{user, service}]
}

// Requestable returns how a service can be asked for, and whether it can be.
func (s *Set) Requestable(service string) (Requestable, bool) {
	if s == nil {
		return Requestable{}, false
	}
	idx, ok := s.byName[service]
	if !ok || s.doc.Services[idx].Requestable == nil {
		return Requestable{}, false
	}
	return *s.doc.Services[idx].Requestable, true
}

// MayApprove reports whether a person is one of those who may say yes to requests for a service. It is no answer to
// whether the request is their own.
func (s *Set) MayApprove(sub *Subject, service string) bool {
	r, ok := s.Requestable(service)
	if !ok || sub == nil {
		return false
	}
	for _, g := range r.Groups {
		if s.inGroup(sub, g) {
			return true
		}
	}
	for _, u := range r.Users {
		if isUser(sub, u) {
			return true
		}
	}
	return false
}

// inGroup reports whether the provider says that somebody is in a group.
func (s *Set) inGroup(sub *Subject, g GroupRef) bool {
	if !sub.id.GroupsKnown {
		return false
	}
	for _, k := range groupKeys(g, s.several) {
		if (k.provider == "" || k.provider == sub.id.Provider) && slices.Contains(sub.id.Groups, k.group) {
			return true
		}
	}
	return false
}

// isUser reports whether an entry certainly names somebody.
func isUser(sub *Subject, u UserRef) bool {
	switch {
	case u.Provider != "" && u.Provider != sub.id.Provider:
		return false
	case u.Subject != "":
		return u.Subject == sub.id.Subject
	default:
		return u.Everyone || sub.id.EmailTrusted && u.Email == sub.email
	}
}
