package server

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/store"
)

// AuditDir is where the audit log of a gateway with this configuration lies.
func AuditDir(cfg *Config) string { return filepath.Join(cfg.StateDir, "audit") }

// OpenStore opens the database of a configuration beside a gateway that may run, and says which gateway is configured. The
// caller closes it.
func OpenStore(ctx context.Context, cfg *Config, log *slog.Logger) (*store.Store, auth.GatewayID, error) {
	authority, err := loadAuthority(cfg)
	if err != nil {
		return nil, "", err
	}
	db, err := store.Open(ctx, cfg.databaseURL(), store.Options{TrustDomain: auth.TrustDomain(cfg.TrustDomain), PolicySource: cfg.Policy.Source, Logger: log})
	return db, authority.GatewayID(), explain(err, cfg.StateDir)
}
