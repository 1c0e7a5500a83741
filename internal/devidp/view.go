package devidp

import (
	"maps"
	"net/url"
	"slices"
)

// names lists the accounts that can log in.
func (s *storage) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.accounts))
}

// pending tells the login page about a login request: the client's name, the origin that the login returns to,
// and whom the client expects.
func (s *storage) pending(id string) (client, origin, hint string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.requestLocked(id)
	if err != nil {
		return "", "", "", err
	}
	u, err := url.Parse(r.request.RedirectURI)
	if err != nil {
		return "", "", "", err
	}
	return s.clients[r.request.ClientID].Name, u.Scheme + "://" + u.Host, r.request.LoginHint, nil
}
