package store

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
)

// A preview reads millions of streams in pages: a page must not sort, or walk through, all that are behind it.
func TestStreamsArePagedByNumber(t *testing.T) {
	s, err := Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "culvert.db"), Options{TrustDomain: "corp.example", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for query, args := range map[string][]any{selectStreams: {1, 1, 1}, firstStream: {1}} {
		rows, err := s.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, step)
		}
		text := strings.Join(plan, "\n")
		if err := rows.Err(); err != nil || strings.Contains(text, "TEMP B-TREE") || strings.Contains(text, "SCAN") ||
			query == selectStreams && !strings.HasPrefix(text, "SEARCH r USING INTEGER PRIMARY KEY (rowid>?)") {
			t.Errorf("%v\n%s\n%s", err, query, text)
		}
	}
}
