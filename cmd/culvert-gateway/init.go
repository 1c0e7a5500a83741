package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-vpn/culvert/server"
)

func (p *program) initCommand() *cobra.Command {
	var opts server.InitOptions
	var dir string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a configuration, an example policy and a CA",
		Long: `Write a commented configuration, an example policy and a certificate authority
into a folder, for a gateway that starts as it is. Nothing that exists is
overwritten: run it again to fill in what is missing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.init(dir, opts, settingFlags(cmd)) },
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "the folder (default: that of --config)")
	f.StringVar(&opts.Hostname, "hostname", "", "the name that clients use (default: this machine's)")
	f.StringVar(&opts.TrustDomain, "trust-domain", "", "the name inside certificates, for good (default: the hostname without its first label)")
	f.StringVar(&opts.GatewayID, "gateway-id", "", "this gateway's name inside the trust domain (default gw1)")
	f.StringVar(&opts.Listen, "listen", "", "the one port (default :443, or :8443 where this user may not listen there)")
	f.StringVar(&opts.MetricsListen, "metrics-listen", "", "the loopback address for metrics (default 127.0.0.1:9464)")
	f.StringVar(&opts.StateDir, "state-dir", "", "the folder for the database and the audit log (default: state, in --dir)")
	f.StringVar(&opts.Issuer, "issuer", "", "the OpenID provider's issuer, exactly as it writes it")
	f.StringVar(&opts.ClientID, "client-id", "", "what the provider calls this application")
	f.StringVar(&opts.ProviderName, "provider", "", "what the policy calls the provider (default corp)")
	return cmd
}

// initReport is what init prints with --json.
type initReport struct {
	Config  string            `json:"config"`
	Files   []server.InitFile `json:"files"`
	CA      *caDescription    `json:"ca"`
	Missing []string          `json:"missing,omitempty"`
	Unused  []string          `json:"unused,omitempty"` // flags that an existing configuration does not take
}

// settingFlags returns those that were given and become part of the configuration.
func settingFlags(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "dir" && cmd.InheritedFlags().Lookup(f.Name) == nil {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

func (p *program) init(dir string, opts server.InitOptions, flags []string) error {
	if dir == "" {
		dir = filepath.Dir(p.config)
	}
	files, err := server.InitFiles(dir, opts)
	if err != nil {
		return err
	}
	report := initReport{Config: filepath.Join(dir, server.ConfigFile), Files: files}
	for _, f := range files {
		if f.Path == report.Config && !f.Created {
			report.Unused = flags
		}
	}
	cfg, err := server.LoadConfig(report.Config, nil)
	if err != nil {
		return err
	}
	if report.CA, err = describeCA(cfg); err != nil {
		return err
	}
	if len(cfg.Providers) == 0 {
		report.Missing = append(report.Missing, "an OpenID provider: add it under providers in "+report.Config)
	}
	return p.print(report, report.text(cfg))
}

func (r initReport) text(cfg *server.Config) string {
	var b strings.Builder
	for _, f := range r.Files {
		done := "exists, left as it is"
		if f.Created {
			done = "created"
		}
		fmt.Fprintf(&b, "%-14s %s (%s)\n", f.What, f.Path, done)
	}
	b.WriteString("\n" + r.CA.text(cfg) + "\n")
	if len(r.Unused) > 0 {
		fmt.Fprintf(&b, "not used       %s: the configuration exists, edit %s\n\n", strings.Join(r.Unused, ", "), r.Config)
	}
	for _, missing := range r.Missing {
		fmt.Fprintf(&b, "missing        %s\n\n", missing)
	}
	fmt.Fprintf(&b, "Next:\n  1. edit %s: who may reach what\n  2. culvert-gateway serve --config %s\n", cfg.Policy.File, r.Config)
	return b.String()
}
