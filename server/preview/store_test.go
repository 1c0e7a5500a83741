package preview

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/store"
)

func openStore(t testing.TB, file string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite://"+file, store.Options{TrustDomain: "corp.example", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// rowOf is the row that leads to a stream when the index is asked.
func rowOf(s store.AuditStream, seq uint64) store.AuditRow {
	return store.AuditRow{
		Log: "log", Seq: seq, Time: s.Time, Event: s.Event, User: s.User, Provider: s.Provider, Name: s.Name, Email: s.Email,
		Session: auth.SessionID("session of " + s.Name), Remote: s.Remote, Service: s.Service, Kind: s.Kind, Target: s.Target, Address: s.Address,
		Rule: s.Rule, Code: s.Code, Condition: s.Condition, Repeated: s.Repeated, Subject: s.Subject,
	}
}

// The store's index is a Source, and streams are given the facts of their connection.
func TestStoreIsASource(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "culvert.db"))
	open := rowOf(opened("ada", "db", "engineering"), 1)
	open.Event, open.Stream, open.Time = "session.open", "connection", began
	one, two, bare := rowOf(opened("ada", "db"), 2), rowOf(refused("ada", "wiki"), 3), rowOf(opened("ada", "db"), 4)
	one.Link, two.Link, two.Repeated = "connection", "connection", 3
	for i, r := range []*store.AuditRow{&one, &two, &bare} {
		r.Subject, r.Time = "", began.Add(time.Duration(i+1)*time.Hour)
	}
	if err := s.IndexBatch(t.Context(), "gw", "4", []store.AuditRow{open, one, two, bare}); err != nil {
		t.Fatal(err)
	}
	got, err := Run(t.Context(), Config{New: load(t, newRules), Source: s, Since: began})
	if err != nil || got.Streams != 5 || got.Changed != 4 || got.Undecidable != 1 || len(got.Changes) != 2 {
		t.Errorf("%v %+v", err, got)
	}
}
