package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/login"
	"github.com/culvert-vpn/culvert/internal/durable"
)

// errAnotherLogin: the person logged in anew meanwhile, so that there is nothing to step up.
var errAnotherLogin = errors.New("another login took this one's place")

const (
	// declineMemory is how long one process' no holds for others that were asked before it. It bounds what a clock that was set
	// can do.
	declineMemory = 5 * time.Minute
	// declineQuiet is how long nobody is asked again after a no: a program that tries again at once must not open page after page.
	declineQuiet = 10 * time.Second
	// unansweredQuiet is how long no further page opens when nobody came to the last one; the address is still printed.
	unansweredQuiet = 10 * time.Minute
)

// StepUp implements credentials. One process at a time asks the person; the others wait for it, and take what came of it.
func (s *stored) StepUp(ctx context.Context, old *Login, w wanted) (*Login, error) {
	if s.cfg.Prompt == nil {
		return nil, errors.New("this program does not ask for logins")
	}
	turn, err := s.cfg.Profile.LockStepUp(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for another login: %w", orCause(ctx, err))
	}
	defer turn.Unlock()
	current, err := s.Load(ctx)
	switch {
	case err != nil:
		return nil, err
	case current.Session() != old.Session():
		return nil, errAnotherLogin
	case w.fits(current):
		return current, nil
	}
	no, err := s.cfg.Profile.Declined()
	if err != nil { // it was set aside, or is a newer program's: then somebody is asked once too often
		s.cfg.Logger.Warn("what was declined before is not known", "error", err)
		no = certstore.Declined{}
	}
	refused, quiet := judge(no, w.since, s.cfg.Now())
	if refused {
		return nil, declinedError(no.Reason)
	}
	w.quiet = quiet
	stepped, err := s.ask(ctx, old, w)
	if err != nil && !errors.Is(context.Cause(ctx), errDown) && !errors.Is(err, context.Canceled) {
		if err := s.cfg.Profile.Decline(declineReason(err), errors.Is(err, errNobodyWaits)); err != nil {
			s.cfg.Logger.Warn("other processes will ask for the same login", "error", err)
		}
	}
	return stepped, err
}

// judge applies the last no to a question that was asked at since: whether it is the answer, and whether to open no page.
func judge(no certstore.Declined, since, now time.Time) (refused, quiet bool) {
	age := now.Sub(no.At).Abs() // a clock may have been set
	refused = no.At.After(since) && age < declineMemory || !no.Unanswered && age < declineQuiet
	return refused, no.Unanswered && age < unansweredQuiet
}

// orCause gives a context's own reason.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// ask opens the browser, and stores what came of it. From the moment when the person comes back until it is stored, nobody renews
// the session.
func (s *stored) ask(ctx context.Context, old *Login, w wanted) (*Login, error) {
	record, err := s.cfg.Profile.Load(ctx)
	if err != nil {
		return nil, translate(err)
	}
	request, done, err := s.stepUpRequest(record, w)
	if err != nil {
		return nil, err
	}
	defer done()
	var lock *durable.FileLock
	defer func() {
		if lock != nil {
			_ = lock.Unlock()
		}
	}()
	request.Hold = func(ctx context.Context) (certificate []byte, err error) {
		if lock, err = s.cfg.Profile.LockRefresh(ctx); err != nil {
			return nil, fmt.Errorf("wait for a renewal: %w", err)
		}
		if record, err = s.cfg.Profile.Load(ctx); err != nil {
			return nil, translate(err)
		}
		if record.Session != old.Session() {
			return nil, errAnotherLogin
		}
		leaf, err := record.Leaf()
		if err != nil {
			return nil, fmt.Errorf("stored login: %w", err)
		}
		return leaf.Raw, nil
	}
	stepped, err := login.StepUp(ctx, request)
	if err != nil {
		return nil, err
	}
	return s.saveStepUp(ctx, record, stepped)
}

func (s *stored) stepUpRequest(record certstore.Login, w wanted) (r login.StepUpRequest, done func(), err error) {
	provider, err := login.ParseProvider(record.ProviderSettings)
	if err != nil {
		return r, nil, err
	}
	key, err := record.Key()
	if err != nil {
		return r, nil, fmt.Errorf("stored login: %w", err)
	}
	id, err := record.Identity()
	if err != nil {
		return r, nil, fmt.Errorf("stored login: %w", err)
	}
	gateway, done, err := s.gateway(record)
	if err != nil {
		return r, nil, err
	}
	prompt := s.cfg.Prompt
	return login.StepUpRequest{
		Gateway: gateway, TrustDomain: record.TrustDomain, Provider: provider, Key: key, ACR: w.acr, For: w.purpose(),
		NoBrowser: prompt.NoBrowser || w.quiet, Out: prompt.Out, Open: prompt.Open, Shown: w.shown, LoginHint: id.Email,
		HTTP: s.cfg.ProviderHTTP, Client: s.cfg.clientInfo(), Now: s.cfg.Now,
	}, done, nil
}

// saveStepUp stores the new certificate, and the new login's refresh token where there is one: what it refreshes keeps the class of
// this login. The caller holds the lock of renewals.
func (s *stored) saveStepUp(ctx context.Context, record certstore.Login, stepped *login.SteppedUp) (*Login, error) {
	response := stepped.Response
	if response.Session != record.Session {
		return nil, fmt.Errorf("the gateway answered for session %s instead of %s", response.Session, record.Session)
	}
	record.Chain, record.Roots, record.Deadline, record.ClockSkew = response.Chain, response.Roots, response.Deadline, stepped.Skew
	if stepped.RefreshToken != "" {
		if err := replaceToken(&record, stepped.RefreshToken, stepped.Granted); err != nil {
			return nil, err
		}
	}
	// The gateway has issued: an interrupted client must find the certificate.
	if err := s.cfg.Profile.Save(context.WithoutCancel(ctx), record); err != nil {
		return nil, err
	}
	certificate, err := record.Certificate()
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	return loginOf(record, certificate)
}

func replaceToken(record *certstore.Login, token oidc.Secret, granted []string) error {
	provider, err := login.ParseProvider(record.ProviderSettings)
	if err != nil {
		return err
	}
	provider.Granted = granted
	settings, err := provider.JSON()
	if err != nil {
		return err
	}
	record.RefreshToken, record.ProviderSettings = certstore.NewSecretString(token.Reveal()), settings
	return nil
}
