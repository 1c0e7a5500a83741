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
	young, old map[personKey]*person
	bytes      int // of the young ones' facts
}

// A person is one subject for each policy: a subject remembers what the last policy that was asked says of it.
type person struct{ byOld, byNew *policy.Subject }

type personKey struct {
	user     auth.UserID
	provider string
	name     string
	email    string
	facts    string
}

func newPeople() *people { return &people{young: make(map[personKey]*person)} }

// of returns the person as they were known when the stream was opened; nil where nothing was recorded of them.
func (p *people) of(s *store.AuditStream) *person {
	k := personKey{s.User, s.Provider, s.Name, s.Email, s.Subject}
	if who, ok := p.young[k]; ok {
		return who
	}
	who, ok := p.old[k]
	if !ok {
		who = personOf(s)
	}
	if len(p.young) >= maxPeople || p.bytes+len(s.Subject) > maxFacts {
		p.old, p.young, p.bytes = p.young, make(map[personKey]*person), 0
	}
	p.young[k] = who
	p.bytes += len(s.Subject)
	return who
}

func personOf(s *store.AuditStream) *person {
	var f audit.SubjectFacts
	if s.Subject == "" || json.Unmarshal([]byte(s.Subject), &f) != nil {
		return nil
	}
	id := auth.Identity{
		Issuer: f.Issuer, Subject: f.Subject, Provider: s.Provider, Name: s.Name, Email: s.Email, EmailTrusted: f.EmailTrusted,
		Groups: f.Groups, GroupsKnown: f.GroupsKnown, ACR: f.ACR, AMR: f.AMR, AuthTime: f.AuthTime, Login: f.Login,
	}
	dev := policy.DeviceFromPosture(f.Posture)
	return &person{policy.NewSubject(id, dev), policy.NewSubject(id, dev)}
}
