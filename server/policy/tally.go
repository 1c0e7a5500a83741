package policy

import "time"

// A tally collects the services that contain an address, and what the rules say of them.
type tally struct {
	best    int32 // the most precise one, or -1
	rank    int
	own     ruling // of best
	literal bool   // one of them names the address itself
	// shown is the most precise one that this person may know of, or -1.
	shown     int32
	shownRank int
	said      ruling // of shown

	deny   ruling // of the first service that denies
	veiled bool   // that one must not be told
	allow  ruling // of the first service that allows, else of one that does after a fresh login
	until  time.Time
}

func newTally() tally { return tally{best: -1, rank: -1, shown: -1, shownRank: -1} }

// Ranks order services by precision; a network's rank is the number of address bits that it names.
const (
	rankNamed   = 1000
	rankLearned = 999
)

func (q *question) add(t *tally, idx int32, rank int) {
	r := q.rule(idx)
	if rank > t.rank {
		t.best, t.rank, t.own = idx, rank, r
	}
	veiled := q.set.doc.Services[idx].Hidden && !r.allows() && r.kind() != verdictStepUp
	if !veiled && rank > t.shownRank {
		t.shown, t.shownRank, t.said = idx, rank, r
	}
	earliest(&t.until, r.until)
	switch {
	case r.denies() && (!t.deny.denies() || t.veiled && !veiled):
		t.deny, t.veiled = r, veiled
	case r.allows() && !t.allow.allows():
		t.allow = r
	case r.kind() == verdictStepUp && t.allow.kind() == verdictNone:
		t.allow = r
	}
}

// gather finds the services that contain the question's address. To a special address belong only those that name it
// literally: by itself, or as a network of one address.
func (q *question) gather(t *tally, special bool) {
	s := q.set
	for _, idx := range s.byAddr[addrKey{q.kind, q.at}] {
		q.add(t, idx, rankNamed)
		t.literal = true
	}
	q.gatherNetworks(t, special)
	if special {
		return
	}
	for _, host := range s.resolved.hostsAt(q.at.Addr()) {
		for _, idx := range s.byDial[endpoint{q.kind, host, q.at.Port()}] {
			q.add(t, idx, rankLearned)
		}
	}
}

func (q *question) gatherNetworks(t *tally, special bool) {
	nodes := q.set.networks[familyOf(q.at.Addr())].nodes
	if len(nodes) == 0 {
		return
	}
	bits, full := bitsOf(q.at.Addr()), q.at.Addr().BitLen()
	n := int32(0)
	for depth := 0; ; depth++ {
		if !special || depth == full {
			for _, idx := range nodes[n].services {
				if svc := q.set.doc.Services[idx]; svc.Kind == q.kind && svc.hasPort(q.at.Port()) {
					q.add(t, idx, depth)
					t.literal = t.literal || depth == full
				}
			}
		}
		if depth == full {
			return
		}
		if n = nodes[n].child[bits.at(depth)]; n == 0 {
			return
		}
	}
}
