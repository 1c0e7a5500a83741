package adminctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// maxEntries bounds what one command holds of a list; --json | jq is no way to copy a database.
const maxEntries = 100_000

// limitFlag adds --limit, which every list has.
func limitFlag(cmd *cobra.Command, limit *int) {
	cmd.Flags().IntVar(limit, "limit", adminapi.DefaultLimit, "how many entries at most; 0 for all")
}

// A listing is a command that prints a list of the API.
type listing[T any] struct {
	what  string // "session": what one entry is
	none  string // what to say when there is none; empty: "no sessions"
	limit int
	// fetch gets one page.
	fetch func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[T], error)
	// table lays the entries out.
	table func(items []T, cal calendar) *table
}

// run fetches as many pages as were asked for and prints them.
func (l listing[T]) run(ctx context.Context, c *ctl) error {
	if l.limit < 0 {
		return usagef("0 lists all", "--limit %d is negative", l.limit)
	}
	return c.call(ctx, func(ctx context.Context, api *adminapi.Client) error {
		page, err := collect(ctx, l.limit, func(ctx context.Context, p adminapi.List) (*adminapi.Page[T], error) { return l.fetch(ctx, api, p) })
		if err != nil {
			return err
		}
		return l.print(c, page)
	})
}

func (l listing[T]) print(c *ctl, page adminapi.Page[T]) error {
	if c.JSON() {
		if page.Items == nil {
			page.Items = []T{}
		}
		return c.json(page)
	}
	if len(page.Items) == 0 {
		none := l.none
		if none == "" {
			none = "no " + l.what + "s"
		}
		return c.printf("%s\n", none)
	}
	if err := l.table(page.Items, c.calendar()).write(c.Out, c.Width()); err != nil {
		return err
	}
	if page.Next != "" {
		first := "this is the first " + l.what
		if n := len(page.Items); n > 1 {
			first = "these are the first " + plural(n, l.what)
		}
		c.note("hint: %s, and there are more: --limit 0 lists all", first)
	}
	return nil
}

// collect asks for pages until there are limit entries, or all of them when limit is 0.
func collect[T any](ctx context.Context, limit int, fetch func(context.Context, adminapi.List) (*adminapi.Page[T], error)) (adminapi.Page[T], error) {
	all := adminapi.Page[T]{}
	for {
		ask := adminapi.MaxLimit
		if limit > 0 {
			ask = min(ask, limit-len(all.Items))
		}
		page, err := fetch(ctx, adminapi.List{Cursor: all.Next, Limit: ask})
		if err != nil {
			return all, err
		}
		all.Items = append(all.Items, page.Items...)
		if page.Next != "" && page.Next == all.Next {
			return all, fmt.Errorf("the gateway's list does not go on after %s", plural(len(all.Items), "entry"))
		}
		all.Next = page.Next
		switch {
		case all.Next == "", limit > 0 && len(all.Items) >= limit:
			return all, nil
		case len(all.Items) >= maxEntries:
			return all, fmt.Errorf("more than %s; ask for fewer", plural(maxEntries, "entry"))
		}
	}
}

// person names a user as the next command takes it, where that is short. A name alone is what its owner chose, and could be somebody
// else's address: an id stands behind it.
func person(p adminapi.Person) string {
	switch {
	case p.Email != "" && p.Provider != "":
		return clean(p.Provider + ":" + p.Email)
	case p.Email != "":
		return clean(p.Email)
	case p.Name != "" && p.ID != "":
		return clean(p.Name) + " (" + shortID(p.ID) + ")"
	case p.Name != "": // root at the socket, who is nobody's account
		return clean(p.Name)
	default:
		return clean(p.ID)
	}
}

// fullPerson is for sheets: the name, and everything that finds the user.
func fullPerson(p adminapi.Person) string {
	text := person(adminapi.Person{ID: p.ID, Provider: p.Provider, Email: p.Email})
	if p.Name != "" {
		text = clean(p.Name) + ", " + text
	}
	return text
}

// shortID is the beginning of a person's or device's id in a table; commands take that of a device back.
func shortID(id string) string {
	id = clean(id)
	if len(id) > shortDigits {
		return id[:shortDigits]
	}
	return id
}

// shortDigits are 60 bits: enough to tell devices apart, and a command that finds two refuses.
const shortDigits = 12

// findDevice completes what shortID cut of a device's id.
func findDevice(ctx context.Context, api *adminapi.Client, id string) (string, error) {
	if id == "" || len(id) >= 52 {
		return id, nil
	}
	page, err := collect(ctx, 0, func(ctx context.Context, l adminapi.List) (*adminapi.Page[adminapi.DeviceEntry], error) {
		return api.Devices(ctx, adminapi.DeviceQuery{List: l})
	})
	if err != nil {
		return "", fmt.Errorf("look the device up: %w", err)
	}
	found := ""
	for _, d := range page.Items {
		if len(d.ID) > len(id) && d.ID[:len(id)] == id {
			if found != "" && found != d.ID {
				return "", usagef("write more of it", "%q is the beginning of more than one device", id)
			}
			found = d.ID
		}
	}
	if found == "" {
		return "", &Error{Code: ExitError, Message: fmt.Sprintf("no device begins with %q", clean(id)), Hint: "admin devices lists them"}
	}
	return found, nil
}
