package server

import "github.com/culvert-vpn/culvert/server/store"

// A lockIndex finds the locks that can cover somebody. Every logout at a provider
// leaves a lock for hours; to hold each session against each of them would take
// seconds, and a cut has one.
type lockIndex struct {
	named map[lockName][]store.Lock
	rest  []store.Lock // on groups, and of kinds that only a newer gateway knows
}

// A lockName is what a lock names when it names one thing.
type lockName struct {
	kind   store.LockKind
	target string
}

func indexLocks(locks []store.Lock) lockIndex {
	x := lockIndex{named: make(map[lockName][]store.Lock)}
	add := func(kind store.LockKind, target string, l store.Lock) {
		x.named[lockName{kind, target}] = append(x.named[lockName{kind, target}], l)
	}
	for _, l := range locks {
		switch l.Kind {
		case store.LockUser, store.LockDevice, store.LockSession:
			add(l.Kind, l.Target, l)
		case store.LockCertificate:
			add(store.LockCertificate, l.Target, l)
			add(store.LockSession, string(l.Session), l)
		case store.LockLogin: // ended its sessions when it was made
		default:
			x.rest = append(x.rest, l)
		}
	}
	return x
}

// lockedOut is nil, or the *wire.Termination of a lock that covers s.
func (x lockIndex) lockedOut(s store.LockSubject) error {
	for _, name := range []lockName{
		{store.LockUser, string(s.User)}, {store.LockDevice, string(s.Device)},
		{store.LockSession, string(s.Session)}, {store.LockCertificate, string(s.Serial)},
	} {
		if err := lockedOut(x.named[name], s); err != nil {
			return err
		}
	}
	return lockedOut(x.rest, s)
}
