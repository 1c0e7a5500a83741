package preview

import (
	"encoding/json"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// Bounds of people: how many are remembered, and how much text their facts have together. Both are for each of the
// two generations.
const (
	maxPeople = 4_096
	maxFacts  = 8 << 20
)

// people makes subjects of recorded facts. What was recorded of somebody is the same for many streams, so the last
// ones are remembered: in two generations, of which the older one is dropped when the younger one is full.
type people struct {
	young, old map[personKey]*policy.Subject
	bytes      int // of the young ones' facts
}

type personKey struct {
	user     auth.UserID
	provider string
	name     string
	email    string
	facts    string
}

func newPeople() *people { return &people{young: make(map[personKey]*policy.Subject)} }

// of returns the person as they were known when the stream was opened.
func (p *people) of(s *store.AuditStream) (*policy.Subject, bool) {
	k := personKey{s.User, s.Provider, s.Name, s.Email, s.Subject}
	if sub, ok := p.young[k]; ok {
		return sub, sub != nil
	}
	sub, ok := p.old[k]
	if !ok {
		sub = subjectOf(s)
	}
	if len(p.young) >= maxPeople || p.bytes+len(s.Subject) > maxFacts {
		p.old, p.young, p.bytes = p.young, make(map[personKey]*policy.Subject), 0
	}
	p.young[k] = sub
	p.bytes += len(s.Subject)
	return sub, sub != nil
}

// subjectOf returns nil where nothing was recorded of the person.
func subjectOf(s *store.AuditStream) *policy.Subject {
	var f audit.SubjectFacts
	if s.Subject == "" || json.Unmarshal([]byte(s.Subject), &f) != nil {
		return nil
	}
	id := auth.Identity{
		Issuer: f.Issuer, Subject: f.Subject, Provider: s.Provider, Name: s.Name, Email: s.Email, EmailTrusted: f.EmailTrusted,
		Groups: f.Groups, GroupsKnown: f.GroupsKnown, ACR: f.ACR, AMR: f.AMR, AuthTime: f.AuthTime, Login: f.Login,
	}
	return policy.NewSubject(id, policy.DeviceFromPosture(f.Posture))
}
