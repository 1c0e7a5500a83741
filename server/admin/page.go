package admin

import (
	"strconv"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// limitOf is how many entries a page may have.
func limitOf(l adminapi.List) int {
	if l.Limit == 0 {
		return adminapi.DefaultLimit
	}
	return min(l.Limit, adminapi.MaxLimit)
}

// pageOf makes a page of rows that were asked for with limit+1: the one too many says that there are more. cursor names the
// last row of the page.
func pageOf[R, T any](rows []R, limit int, entry func(R) T, cursor func(R) string) *adminapi.Page[T] {
	page := &adminapi.Page[T]{Items: make([]T, 0, min(len(rows), limit))}
	if len(rows) > limit {
		rows = rows[:limit]
		page.Next = cursor(rows[limit-1])
	}
	for _, r := range rows {
		page.Items = append(page.Items, entry(r))
	}
	return page
}

// pageFrom is pageOf for a list that is in memory in its whole length, in an order that does not change: the page begins
// behind the row that after names; where that has gone, cursors compare.
func pageFrom[R, T any](rows []R, list adminapi.List, entry func(R) T, place func(R) place) (*adminapi.Page[T], error) {
	if list.Cursor != "" {
		after, err := parsePlace(list.Cursor)
		if err != nil {
			return nil, err
		}
		first := 0
		for first < len(rows) && !after.before(place(rows[first])) {
			first++
		}
		rows = rows[first:]
	}
	limit := limitOf(list)
	if len(rows) > limit+1 {
		rows = rows[:limit+1]
	}
	return pageOf(rows, limit, entry, func(r R) string { return place(r).String() }), nil
}

// A place orders a list: by a number, then by an id. Lists with the newest first negate their times.
type place struct {
	order int64
	id    string
}

func newest(t time.Time, id string) place { return place{-t.UnixMilli(), id} }
func oldest(t time.Time, id string) place { return place{t.UnixMilli(), id} }

func (p place) before(other place) bool {
	if p.order != other.order {
		return p.order < other.order
	}
	return p.id < other.id
}

func (p place) compare(other place) int {
	switch {
	case p == other:
		return 0
	case p.before(other):
		return -1
	}
	return 1
}

func (p place) String() string { return strconv.FormatInt(p.order, 10) + "." + p.id }

func parsePlace(cursor string) (place, error) {
	order, id, found := strings.Cut(cursor, ".")
	n, err := strconv.ParseInt(order, 10, 64)
	if !found || err != nil || len(id) > maxName {
		return place{}, badCursor()
	}
	return place{n, id}, nil
}

func badCursor() *refusal {
	return refuse(adminapi.CodeBadRequest, "the cursor is not one of this list's")
}
