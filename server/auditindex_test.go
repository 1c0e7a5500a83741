package server

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

// What happens is in the index, with what a preview needs; in the export, line by line;
// and under a checkpoint that the database keeps.
func TestRecordsAreIndexedExportedAndSigned(t *testing.T) {
	out := filepath.Join(t.TempDir(), "export.jsonl")
	i := everything(t, func(cfg *Config) {
		cfg.Audit.Export = []ExportConfig{{Name: "copy", Kind: "file", Path: out}}
	})
	r := i.serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, _ := mustLogin(t, r, "ada").open(t, ctx, r)
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream's end is in the index", func() bool {
		rows, err := r.store.AuditRows(ctx, store.AuditFilter{Event: string(audit.EventStreamClose)}, 10)
		return err == nil && len(rows) == 1 && rows[0].Service == "echo" && rows[0].Sent == 5
	})
	streams, err := r.store.StreamsSince(ctx, r.now().Add(-patience), 0, 10)
	if err != nil || len(streams) != 1 || !strings.Contains(streams[0].Subject, "engineering") {
		t.Errorf("streams to decide again: %+v, %v; want one with the person's groups", streams, err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	exported, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(exported), `"log.closed"`) {
		t.Errorf("the export ends with %d bytes and without the log's last record: %v", len(exported), err)
	}
	db, err := store.Open(ctx, i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: r.log})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	list, err := db.Checkpoints(ctx, r.authority.GatewayID(), 10)
	if err != nil || len(list) != 1 || list[0].Size == 0 {
		t.Errorf("checkpoints in the database: %+v, %v; want one", list, err)
	}
}
