package store

import (
	"context"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// A Device is one that somebody has logged in on.
type Device struct {
	ID        auth.DeviceID
	User      auth.UserID
	Provider  string
	Name      string // the user's
	Email     string // the user's
	FirstSeen time.Time
	LastSeen  time.Time // when its newest certificate was issued
	Client    string    // of its latest login
	Sessions  int       // that live
}

// DeviceFilter selects devices; the zero value selects all.
type DeviceFilter struct {
	User   auth.UserID
	Device auth.DeviceID
	// After and AfterUser are the ID and User of the last one of the page
	// before.
	After     auth.DeviceID
	AfterUser auth.UserID
}

// Devices lists up to limit devices, one for each person on it, by id.
func (s *Store) Devices(ctx context.Context, f DeviceFilter, limit int) ([]Device, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	return all(ctx, s.read.patient(), scanDevice, selectDevices, millis(now), f.User, f.Device, f.After, f.AfterUser, limit)
}

func scanDevice(scan scanFunc) (Device, error) {
	var d Device
	var first, last int64
	err := scan(&d.ID, &d.User, &d.Provider, &d.Name, &d.Email, &first, &last, &d.Client, &d.Sessions)
	d.FirstSeen, d.LastSeen = fromMillis(first), fromMillis(last)
	return d, err
}
