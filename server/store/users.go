package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/culvert-vpn/culvert/auth"
)

// User gets one person seen here, or ErrNotFound.
func (s *Store) User(ctx context.Context, id auth.UserID) (User, error) {
	return one(ctx, s.read, scanUser, userByID, id)
}

// Users lists up to limit people seen, by id, beginning behind the id after.
func (s *Store) Users(ctx context.Context, after auth.UserID, limit int) ([]User, error) {
	return all(ctx, s.read.listing(), scanUser, usersPage, after, limit)
}

// UsersByEmail lists up to limit people with that e-mail address, in any case of
// ASCII letters. Nothing here says that the address is theirs.
func (s *Store) UsersByEmail(ctx context.Context, email string, limit int) ([]User, error) {
	return all(ctx, s.read.listing(), scanUser, usersByEmail, email, limit)
}

func scanUser(scan scanFunc) (User, error) {
	var u User
	var first, last int64
	var groups, amr string
	err := scan(&u.ID, &u.Issuer, &u.Subject, &u.Provider, &u.Name, &u.Email, &first, &last,
		&groups, &u.GroupsKnown, &u.EmailTrusted, &u.ACR, &amr, &u.LastLogin)
	if err != nil {
		return u, err
	}
	u.FirstSeen, u.LastSeen = fromMillis(first), fromMillis(last)
	if u.Groups, err = readList(groups); err != nil {
		return u, fmt.Errorf("groups of user %s: %w", u.ID, err)
	}
	if u.AMR, err = readList(amr); err != nil {
		return u, fmt.Errorf("amr of user %s: %w", u.ID, err)
	}
	return u, nil
}

// textList stores a list of strings.
func textList(list []string) string {
	if len(list) == 0 {
		return "[]"
	}
	data, _ := json.Marshal(list) // strings cannot fail
	return string(data)
}

// readList is its inverse.
func readList(text string) ([]string, error) {
	if text == "[]" {
		return nil, nil
	}
	var list []string
	err := json.Unmarshal([]byte(text), &list)
	return list, err
}
