package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/internal/strictconf"
)

// An Access is one cell of the table of who reaches what.
type Access struct {
	Subject  *Subject
	Service  string
	Rule     string   // the rule that decides; "" where none does
	Grant    string   // what the rules give: "always", "when …", "until …"; "" for nothing, whatever the conditions
	Decision Decision // at the moment that was asked for, for a stream that opens
}

// What returns what somebody reaches: one entry per service in the file's order, those that are hidden and refused too.
// A network is one entry, decided as the service that it is; an address in several of them may be denied by another.
func (s *Set) What(sub *Subject, now time.Time) []Access {
	if s == nil {
		return nil
	}
	list := make([]Access, len(s.doc.Services))
	p := s.prepare(now)
	grants := p.side.grantsOf(s.matchOf(sub))
	for i := range s.doc.Services {
		list[i] = p.access(sub, int32(i), grants[int32(i)])
	}
	return list
}

// Who returns which of the people reach a service, in their order, those who do not too.
func (s *Set) Who(service string, people []*Subject, now time.Time) ([]Access, error) {
	if s == nil {
		return nil, errors.New("there is no policy")
	}
	idx, ok := s.byName[service]
	if !ok {
		names := make([]string, len(s.doc.Services))
		for i, svc := range s.doc.Services {
			names[i] = svc.Name
		}
		return nil, fmt.Errorf("there is no service %s%s", quote(service), strictconf.DidYouMean(service, names))
	}
	list := make([]Access, len(people))
	p := s.prepare(now)
	for i, sub := range people {
		list[i] = p.access(sub, idx, p.side.grantOf(s.matchOf(sub), idx))
	}
	return list, nil
}

// A tabler fills in the table of one policy at one moment.
type tabler struct {
	side side
	now  time.Time
}

func (s *Set) prepare(now time.Time) tabler {
	if now.IsZero() {
		now = time.Now()
	}
	return tabler{newSide(s, now, newNormalizer()), now}
}

func (p tabler) access(sub *Subject, idx int32, g grant) Access {
	d := p.side.set.decideService(sub, Request{Now: p.now, Opening: true}, idx)
	return Access{Subject: sub, Service: p.side.doc.Services[idx].Name, Rule: d.Rule, Grant: g.String(), Decision: d}
}
