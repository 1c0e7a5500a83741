package keyring

import (
	"context"
	"errors"
	"fmt"

	oskeyring "github.com/zalando/go-keyring"
)

// Backend is an operating system's keyring: short texts under a service and a user. Its calls may block for
// as long as they like and run on goroutines of their own. Get returns [ErrNotFound] for an entry that is not there.
type Backend interface {
	Get(service, user string) (string, error)
	Set(service, user, text string) error
}

// ErrNotFound is what a [Backend] returns for an entry that is not there.
var ErrNotFound = oskeyring.ErrNotFound

type systemBackend struct{}

func (systemBackend) Get(service, user string) (string, error) {
	if err := present(); err != nil {
		return "", err
	}
	return oskeyring.Get(service, user)
}

func (systemBackend) Set(service, user, text string) error {
	if err := present(); err != nil {
		return err
	}
	return oskeyring.Set(service, user, text)
}

// ask runs one call to the backend and waits for it no longer than the time-out. The libraries underneath cannot
// be cancelled: a call that hangs keeps its goroutine until the process ends or the keyring answers.
func (k *Keyring) ask(ctx context.Context, call func(Backend) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, k.config.Timeout, fmt.Errorf("no answer within %s", k.config.Timeout))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(k.config.Backend) }()
	select {
	case err := <-done:
		return classify(err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("no such entry in the system's keyring: %w", ErrKeyLost)
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}
