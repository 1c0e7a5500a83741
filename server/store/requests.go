package store

import (
	"context"
	"errors"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// Errors of requests.
var (
	// ErrOwnRequest reports somebody who decides on their own request.
	ErrOwnRequest = errors.New("nobody decides on their own request")
	// ErrDecided reports a request that is not in the state for it any more.
	ErrDecided = errors.New("the request was already decided, withdrawn or ended")
)

// RequestState is where a request stands.
type RequestState string

// The states of a request.
const (
	RequestPending   RequestState = "pending"
	RequestApproved  RequestState = "approved"
	RequestDenied    RequestState = "denied"
	RequestWithdrawn RequestState = "withdrawn"
	RequestEnded     RequestState = "ended" // approved, and over
)

// A Request is somebody's wish to reach a service for some time, and the answer.
type Request struct {
	ID       string // given by the caller
	User     auth.UserID
	Provider string
	Name     string
	Email    string
	Service  string
	Reason   string
	For      time.Duration
	Created  time.Time // set by the store
	State    RequestState
	// DecidedBy decided, withdrew or ended it.
	DecidedBy string
	DecidedAt time.Time
	Note      string
	// Until is the end of what was approved, by the database's clock.
	Until time.Time
}

// maxPending bounds the requests of one person that nobody has answered.
const maxPending = 10

// PutRequest records a new request, pending. ErrTooMany means that too many of
// that person wait already.
func (s *Store) PutRequest(ctx context.Context, r Request) (Request, error) {
	if r.ID == "" || r.User == "" || r.Service == "" || r.For <= 0 {
		return Request{}, errors.New("a request needs an id, a user, a service and a time")
	}
	err := s.inTx(ctx, orderRequest, func(tx *tx) error {
		waiting, err := one(ctx, tx, readNumber, countPending, r.User)
		if err != nil {
			return err
		}
		if waiting >= maxPending {
			return ErrTooMany
		}
		r.State, r.Created = RequestPending, tx.now
		if err := tx.exec(ctx, insertRequest, r.ID, r.User, r.Provider, r.Name, r.Email, r.Service, r.Reason,
			r.For.Milliseconds(), millis(r.Created)); err != nil {
			return err
		}
		return tx.changed(ctx)
	})
	return r, err
}

// RequestFilter selects requests; the zero value selects all.
type RequestFilter struct {
	State RequestState
	User  auth.UserID
}

// Requests lists up to limit requests, the newest first.
func (s *Store) Requests(ctx context.Context, f RequestFilter, limit int) ([]Request, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	list, err := all(ctx, s.read.listing(), scanRequest, requestsPage, f.State, millis(now), f.User, limit)
	for i := range list {
		list[i] = list[i].at(now)
	}
	return list, err
}

// Request gets one request, or ErrNotFound.
func (s *Store) Request(ctx context.Context, id string) (Request, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return Request{}, err
	}
	r, err := one(ctx, s.read, scanRequest, requestByID, id)
	return r.at(now), err
}

// at shows an approval whose time is over as ended.
func (r Request) at(now time.Time) Request {
	if r.State == RequestApproved && !now.Before(r.Until) {
		r.State = RequestEnded
	}
	return r
}

// DecideRequest answers a pending request: approved, it holds from now for the
// time that was asked for, at most longest. by is who decides, in words, and
// byUser their id, empty for one who has none. Errors: ErrNotFound,
// ErrOwnRequest, ErrDecided.
func (s *Store) DecideRequest(ctx context.Context, id string, approve bool, by string, byUser auth.UserID, note string, longest time.Duration) (Request, error) {
	return s.moveRequest(ctx, id, func(r *Request, now time.Time) error {
		switch {
		case byUser != "" && byUser == r.User:
			return ErrOwnRequest
		case r.State != RequestPending:
			return ErrDecided
		}
		r.State, r.DecidedBy, r.DecidedAt, r.Note = RequestDenied, by, now, note
		if approve {
			r.State, r.Until = RequestApproved, now.Add(min(r.For, longest))
		}
		return nil
	})
}

// WithdrawRequest takes back a pending or approved request of that person.
// ErrNotFound also means that it is somebody else's.
func (s *Store) WithdrawRequest(ctx context.Context, id string, user auth.UserID) (Request, error) {
	return s.moveRequest(ctx, id, func(r *Request, now time.Time) error {
		switch {
		case r.User != user:
			return ErrNotFound
		case r.State != RequestPending && r.State != RequestApproved:
			return ErrDecided
		}
		r.State = RequestWithdrawn
		r.end(now)
		return nil
	})
}

// EndRequest ends an approved request before its time.
func (s *Store) EndRequest(ctx context.Context, id, by string) (Request, error) {
	return s.moveRequest(ctx, id, func(r *Request, now time.Time) error {
		if r.State != RequestApproved {
			return ErrDecided
		}
		r.State, r.DecidedBy = RequestEnded, by
		r.end(now)
		return nil
	})
}

func (r *Request) end(now time.Time) {
	if !r.Until.IsZero() {
		r.Until = now
	}
	if r.DecidedAt.IsZero() {
		r.DecidedAt = now
	}
}

// moveRequest changes a request whose row is held, and tells the other gateways.
func (s *Store) moveRequest(ctx context.Context, id string, move func(*Request, time.Time) error) (Request, error) {
	var r Request
	err := s.inTx(ctx, unordered, func(tx *tx) (err error) {
		if r, err = one(ctx, tx, scanRequest, requestByID+tx.dialect.forUpdate, id); err != nil {
			return err
		}
		r = r.at(tx.now)
		if err := move(&r, tx.now); err != nil {
			return err
		}
		if err := tx.exec(ctx, decideRequest, r.ID, r.State, r.DecidedBy, millis(r.DecidedAt), r.Note, millis(r.Until)); err != nil {
			return err
		}
		return tx.changed(ctx)
	})
	return r, err
}

// ActiveGrants lists the approved requests whose time is not over, the first to
// end first.
func (s *Store) ActiveGrants(ctx context.Context) ([]Request, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	return all(ctx, s.read, scanRequest, activeGrants, millis(now))
}

func scanRequest(scan scanFunc) (Request, error) {
	var r Request
	var lasts, created, decided, until int64
	err := scan(&r.ID, &r.User, &r.Provider, &r.Name, &r.Email, &r.Service, &r.Reason, &lasts, &created,
		&r.State, &r.DecidedBy, &decided, &r.Note, &until)
	r.For = time.Duration(lasts) * time.Millisecond
	r.Created, r.DecidedAt, r.Until = fromMillis(created), fromMillis(decided), fromMillis(until)
	return r, err
}
