package server

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"reflect"
	"slices"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// Reload reads the policy, the TLS files and the log level again. What is broken
// leaves the old in force and sounds an alarm; the error says what. Settings
// that take a restart are named in the log.
func (s *Server) Reload(ctx context.Context) error {
	return errors.Join(s.reloadConfig(ctx), s.reloadCertificate(ctx, "reload"), s.reloadPolicy(ctx, "reload"))
}

func (s *Server) reloadPolicy(ctx context.Context, why string) error {
	err := s.rules.reload(ctx, why)
	s.health.forget()
	return err
}

func (s *Server) policyAccepted(ctx context.Context, set *policy.Set, why string) {
	if s.gateway != nil { // first the effect: nobody waits for the disk
		s.gateway.PolicyChanged()
	}
	signal(s.newNames)
	s.record(ctx, audit.Record{Event: audit.EventPolicyLoaded, Policy: set.Version(), Detail: why})
}

func (s *Server) policyRefused(ctx context.Context, file string, err error) {
	inForce := ""
	if set := s.rules.set(); set != nil {
		inForce = set.Version()
	}
	s.record(ctx, audit.Record{Event: audit.EventPolicyRefused, Policy: inForce, Target: file, Reason: err.Error()})
}

func (s *Server) reloadCertificate(ctx context.Context, why string) error {
	err := s.cert.reload()
	s.metrics.reloaded("certificate", err)
	s.health.forget()
	if err != nil {
		s.log.Error("the TLS files cannot be used; the certificate read before stays", "error", err)
		s.record(ctx, audit.Record{Event: audit.EventConfigRefused, Detail: why, Reason: err.Error()})
		return err
	}
	if s.cfg.TLS.Mode == "files" {
		s.record(ctx, audit.Record{Event: audit.EventConfigLoaded, Detail: why + ": TLS certificate"})
	}
	return nil
}

// reloadConfig takes the log level and the roles over, and says what takes a
// restart.
func (s *Server) reloadConfig(ctx context.Context) error {
	if s.opts.Reread == nil {
		return nil
	}
	next, err := s.opts.Reread()
	s.metrics.reloaded("configuration", err)
	if err != nil {
		s.log.Error("the configuration cannot be used; the settings read before stay", "error", err)
		s.record(ctx, audit.Record{Event: audit.EventConfigRefused, Detail: "reload", Reason: err.Error()})
		return err
	}
	if s.opts.LogLevel != nil {
		var level slog.Level
		if err := level.UnmarshalText([]byte(next.Log.Level)); err == nil {
			s.opts.LogLevel.Set(level)
		}
	}
	s.takeRoles(ctx, next.Admin.Roles)
	if changed := restartKeys(&s.cfg, next); len(changed) > 0 {
		s.log.Warn("these settings have changed and take a restart", "keys", changed)
	}
	return nil
}

// takeRoles has other roles from here on: who lost one loses what it opened.
func (s *Server) takeRoles(ctx context.Context, list []RoleConfig) {
	if reflect.DeepEqual(s.roles.Load().from, list) {
		return
	}
	table, err := newRoleTable(list, s.cfg.providerNames())
	if err != nil { // the configuration was validated with the same rules
		s.log.Error("the roles cannot be used; those read before stay", "error", err)
		return
	}
	s.roles.Store(table)
	s.registry.Redecide()
	s.record(ctx, audit.Record{Event: audit.EventConfigLoaded, Detail: "reload: admin.roles"})
}

// restartKeys are the keys that differ and that Reload does not take over.
func restartKeys(old, next *Config) []string {
	var keys []string
	a, b := settingsOf(reflect.ValueOf(old).Elem(), ""), settingsOf(reflect.ValueOf(next).Elem(), "")
	for i := range a {
		if a[i].key != "log.level" && !reflect.DeepEqual(a[i].value.Interface(), b[i].value.Interface()) {
			keys = append(keys, a[i].key)
		}
	}
	if !reflect.DeepEqual(old.Providers, next.Providers) {
		keys = append(keys, "providers")
	}
	if !reflect.DeepEqual(old.Audit.Export, next.Audit.Export) {
		keys = append(keys, "audit.export")
	}
	slices.Sort(keys)
	return keys
}

// record appends to the audit log; what cannot be recorded is in the log.
func (s *Server) record(ctx context.Context, r audit.Record) {
	if _, err := s.audit.Append(ctx, r); err != nil {
		s.log.Error("cannot write the audit log", "event", r.Event, "error", err)
	}
}

// recordLeaf puts a certificate that the gateway gave itself into the inventory.
func (s *Server) recordLeaf(ctx context.Context, leaf *x509.Certificate, chain [][]byte) {
	s.log.Info("the gateway's own certificate", "serial", auth.SerialOf(leaf), "not_after", leaf.NotAfter)
	err := s.store.RecordGatewayCertificate(ctx, store.Certificate{
		Serial: auth.SerialOf(leaf), Kind: store.CertificateGateway, Holder: leaf.URIs[0].String(),
		IssuedAt: s.now(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Chain: chain,
	})
	if err != nil && ctx.Err() == nil {
		s.log.Error("cannot record the gateway's own certificate", "error", err)
	}
}
