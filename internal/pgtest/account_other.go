//go:build !unix

package pgtest

import (
	"errors"
	"os/exec"
)

// account is the user that PostgreSQL runs as.
type account struct{}

func findAccount() (account, error) { return account{}, errors.New("not on this system") }

func (account) own(string) error { return nil }

func (account) run(*exec.Cmd) {}
