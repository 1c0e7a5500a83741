package devidp

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// StoreDeviceAuthorization is op.DeviceAuthorizationStorage's.
func (s *storage) StoreDeviceAuthorization(_ context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
	if _, taken := s.byUserCodeLocked(userCode); taken {
		return op.ErrDuplicateUserCode
	}
	s.devices[deviceCode] = &deviceLogin{
		userCode: userCode,
		state:    op.DeviceAuthorizationState{ClientID: clientID, Audience: []string{clientID}, Scopes: scopes, Expires: expires},
	}
	return nil
}

// GetDeviceAuthorizatonState is op.DeviceAuthorizationStorage's. A finished login is handed out once. Polls that
// come too fast are told to slow down, which op says for a deadline.
func (s *storage) GetDeviceAuthorizatonState(_ context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[deviceCode]
	if d == nil || d.state.ClientID != clientID {
		return nil, errUnknown
	}
	now := time.Now()
	early := now.Sub(d.lastPoll) < s.lifetimes.DeviceInterval*9/10 // the network's jitter is no haste
	d.lastPoll = now
	if early {
		return nil, fmt.Errorf("polled too fast: %w", context.DeadlineExceeded)
	}
	state := d.state
	state.Audience = slices.Clone(state.Audience)
	if state.Done || state.Denied {
		delete(s.devices, deviceCode)
	}
	if a := s.bySubjectLocked(state.Subject); state.Done && (a == nil || a.Disabled) {
		state.Denied = true
	}
	return &state, nil
}

// byUserCodeLocked finds an open device login; people type codes in lower case and without the dash.
func (s *storage) byUserCodeLocked(userCode string) (*deviceLogin, bool) {
	wanted := plainCode(userCode)
	for _, d := range s.devices {
		if plainCode(d.userCode) == wanted && !d.state.Done && !d.state.Denied && time.Now().Before(d.state.Expires) {
			return d, true
		}
	}
	return nil, false
}

func plainCode(code string) string {
	return strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
}

// deviceSignIn checks the code and the password and returns what the confirmation page needs.
func (s *storage) deviceSignIn(userCode, name, password string) (ticket, code, client string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.byUserCodeLocked(userCode)
	if !ok {
		return "", "", "", fmt.Errorf("the code is wrong or has expired")
	}
	a, err := s.passwordLocked(name, password)
	if err != nil {
		return "", "", "", err
	}
	d.ticket, d.account = rand.Text(), a.Name
	return d.ticket, d.userCode, s.clients[d.state.ClientID].Name, nil
}

// deviceDecide finishes a device login as its confirmation page says.
func (s *storage) deviceDecide(ticket string, allow bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if ticket == "" || d.ticket != ticket || time.Now().After(d.state.Expires) {
			continue
		}
		d.ticket = ""
		a := s.accounts[d.account]
		if !allow || a == nil || a.Disabled {
			d.state.Denied = true
			return nil
		}
		d.state.Done, d.state.Subject = true, a.Subject
		d.state.AMR, d.state.AuthTime = []string{"pwd"}, time.Now()
		return nil
	}
	return fmt.Errorf("this page has expired; start the login again")
}
