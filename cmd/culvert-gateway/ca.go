package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/server"
)

const maxPEM = 64 << 10

func (p *program) caCommand() *cobra.Command {
	return p.group("ca", "Look after the certificate authority",
		&cobra.Command{
			Use: "show", Short: "Show roots, issuing certificate and the fingerprint for logins", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return p.caShow() },
		},
		p.caCSRCommand(), p.caSignCommand(),
		&cobra.Command{
			Use: "install FILE", Short: `Put the answer of "ca sign" in place, on the gateway that asked ("-": standard input)`, Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return p.caInstall(args[0]) },
		})
}

// A caCertificate is one authority as "ca show" prints it.
type caCertificate struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"`
	NotAfter    time.Time `json:"not_after"`
}

type caDescription struct {
	TrustDomain string          `json:"trust_domain"`
	GatewayID   string          `json:"gateway_id"`
	Roots       []caCertificate `json:"roots"`
	Issuing     caCertificate   `json:"issuing"`
	RootKeyHere bool            `json:"root_key_here"`
	// HTTPS is the fingerprint for "culvert login --ca-fingerprint", in TLS mode self.
	HTTPS string `json:"https_fingerprint,omitempty"`
}

func describeCA(cfg *server.Config) (*caDescription, error) {
	authority, err := ca.Load(cfg.CADir)
	if err != nil {
		return nil, fmt.Errorf("load the CA: %w", err)
	}
	d := &caDescription{TrustDomain: string(authority.TrustDomain()), GatewayID: string(authority.GatewayID())}
	for _, root := range authority.Roots() {
		d.Roots = append(d.Roots, caCertificate{root.Subject.String(), string(auth.FingerprintOf(root.Raw)), root.NotAfter})
	}
	issuing := authority.Issuing()
	d.Issuing = caCertificate{issuing.Subject.String(), string(auth.FingerprintOf(issuing.Raw)), issuing.NotAfter}
	_, err = os.Lstat(filepath.Join(cfg.CADir, "root.key"))
	d.RootKeyHere = err == nil
	if cfg.TLS.Mode == "self" {
		fingerprint, err := server.HTTPSFingerprint(cfg)
		if err != nil {
			return nil, err
		}
		d.HTTPS = string(fingerprint)
	}
	return d, nil
}

func (p *program) caShow() error {
	cfg, err := p.load(nil)
	if err != nil {
		return err
	}
	d, err := describeCA(cfg)
	if err != nil {
		return err
	}
	return p.print(d, d.text(cfg))
}

func (d *caDescription) text(cfg *server.Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "trust domain  %s\ngateway       %s\n", d.TrustDomain, d.GatewayID)
	for _, root := range d.Roots {
		fmt.Fprintf(&b, "root          %s, until %s\n", root.Fingerprint, root.NotAfter.Format(time.DateOnly))
	}
	fmt.Fprintf(&b, "issuing       %s, until %s\n", d.Issuing.Fingerprint, d.Issuing.NotAfter.Format(time.DateOnly))
	if d.RootKeyHere {
		fmt.Fprintf(&b, "root key      in %s; it is needed only for \"ca sign\": keep it offline\n", cfg.CADir)
	}
	if d.HTTPS != "" {
		fmt.Fprintf(&b, "https         %s\n\nPeople log in with:\n  culvert login %s --ca-fingerprint %s\n", d.HTTPS, cfg.LoginURL(), d.HTTPS)
	}
	return b.String()
}

func (p *program) caCSRCommand() *cobra.Command {
	var dir, id string
	cmd := &cobra.Command{
		Use: "csr", Short: "On a further gateway: make its issuing key and print a request for \"ca sign\"", Args: cobra.NoArgs,
		Long: `Make an issuing key for a further gateway, on that gateway, and print a request.
Carry it to where the root key is, compare the fingerprint there, sign it with
"ca sign", and put the answer in place with "ca install".`,
		RunE: func(*cobra.Command, []string) error { return p.caCSR(dir, id) },
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the CA's folder (default: ca beside --config)")
	cmd.Flags().StringVar(&id, "gateway-id", "", "the new gateway's name, such as gw2")
	_ = cmd.MarkFlagRequired("gateway-id")
	return cmd
}

func (p *program) caCSR(dir, id string) error {
	csr, err := ca.Request(p.caDir(dir), auth.GatewayID(id))
	if err != nil {
		return err
	}
	fingerprint, err := ca.RequestFingerprint(csr)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.err, "fingerprint of the request: %s\nsign it where the root key is: culvert-gateway ca sign --gateway-id %s --fingerprint %s FILE\n", fingerprint, id, fingerprint)
	return p.print(map[string]string{"csr": string(csr), "fingerprint": string(fingerprint)}, string(csr))
}

func (p *program) caSignCommand() *cobra.Command {
	var dir, id, fingerprint string
	cmd := &cobra.Command{
		Use: "sign FILE", Short: `Answer a request of "ca csr" with the root key ("-": standard input)`, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return p.caSign(dir, id, fingerprint, args[0]) },
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the CA's folder (default: ca beside --config)")
	cmd.Flags().StringVar(&id, "gateway-id", "", "the name that the new gateway gets")
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", `what "ca csr" printed on the new gateway`)
	_ = cmd.MarkFlagRequired("gateway-id")
	_ = cmd.MarkFlagRequired("fingerprint")
	return cmd
}

// caSign wants the fingerprint as an argument, because a comparison that is
// left to the eye is left out.
func (p *program) caSign(dir, id, fingerprint, file string) error {
	csr, err := p.readFile(file)
	if err != nil {
		return err
	}
	got, err := ca.RequestFingerprint(csr)
	if err != nil {
		return err
	}
	want, err := auth.ParseFingerprint(fingerprint)
	if err != nil {
		return fmt.Errorf("--fingerprint: %w", err)
	}
	if got != want {
		return fmt.Errorf("the request has the fingerprint %s, not %s: it is not the one that the new gateway made", got, want)
	}
	chain, err := ca.Sign(p.caDir(dir), csr, auth.GatewayID(id))
	if err != nil {
		return err
	}
	return p.print(map[string]string{"chain": string(chain)}, string(chain))
}

func (p *program) caInstall(file string) error {
	chain, err := p.readFile(file)
	if err != nil {
		return err
	}
	dir := p.caDir("")
	if err := ca.Install(dir, chain); err != nil {
		return err
	}
	authority, err := ca.Load(dir)
	if err != nil {
		return err
	}
	return p.print(map[string]string{"gateway_id": string(authority.GatewayID()), "trust_domain": string(authority.TrustDomain())},
		fmt.Sprintf("%s can now run gateway %s of %s\n", dir, authority.GatewayID(), authority.TrustDomain()))
}

// caDir is the flag, or ca_dir of the configuration, or "ca" beside it: a new
// gateway may have no configuration yet.
func (p *program) caDir(flag string) string {
	if flag != "" {
		return flag
	}
	if cfg, _ := server.LoadConfig(p.config, nil); cfg != nil {
		return cfg.CADir
	}
	return filepath.Join(filepath.Dir(p.config), "ca")
}

func (p *program) readFile(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(p.in, maxPEM))
	}
	data, err := durable.ReadFile(path, maxPEM)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such file", path)
	}
	return data, err
}
