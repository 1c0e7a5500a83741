package server

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/internal/durable"
)

//go:embed templates
var templates embed.FS

// ConfigFile is the name of the configuration in the folder that InitFiles fills.
const ConfigFile = "gateway.yaml"

// InitOptions are what InitFiles writes into a first configuration. Zero values
// take the defaults named.
type InitOptions struct {
	Hostname      string // default: this machine's name
	TrustDomain   string // default: Hostname without its first label
	GatewayID     string // default: "gw1"
	Listen        string // default: ":443", or ":8443" where this user may not listen there
	MetricsListen string // default: as in DefaultConfig
	StateDir      string // default: "state", in the folder
	ProviderName  string // default: "corp"
	Issuer        string // with ClientID: the OpenID provider; none if left out
	ClientID      string
}

// An InitFile is a file or folder that InitFiles made or found.
type InitFile struct {
	Path    string `json:"path"`
	What    string `json:"what"`    // "configuration", "policy", "CA", "state"
	Created bool   `json:"created"` // false: it was there, and was left as it is
}

// InitFiles writes a commented configuration, an example policy and a CA into
// dir, for a gateway that starts as it is. What exists is never overwritten: a
// second run fills in what is missing and says what was there. Folders are 0700,
// files 0600, each whole or absent.
func InitFiles(dir string, opts InitOptions) ([]InitFile, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirPrivate(dir); err != nil {
		return nil, explain(err, dir)
	}
	var done []InitFile
	for _, step := range []struct {
		name, what string
		make       func(path string) error
	}{
		{"ca", "CA", opts.makeCA},
		{opts.StateDir, "state", makeState},
		{"policy.yaml", "policy", makePolicy},
		{ConfigFile, "configuration", opts.makeConfig}, // last: once it stands, all it names does
	} {
		path := step.name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		err := step.make(path)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return done, explain(err, path)
		}
		done = append(done, InitFile{path, step.what, err == nil})
	}
	return done, makeHTTPS(filepath.Join(dir, ConfigFile))
}

// makeHTTPS makes the authority of TLS mode self, so that its fingerprint can be
// given to people before the first start.
func makeHTTPS(config string) error {
	cfg, err := LoadConfig(config, nil)
	if err != nil {
		return fmt.Errorf("%w\n%s was there before and was left as it is; correct it", err, config)
	}
	if cfg.TLS.Mode != "self" {
		return nil
	}
	_, err = newSelfCertificate(cfg)
	return explain(err, cfg.StateDir)
}

func (o InitOptions) withDefaults() (InitOptions, error) {
	if o.Hostname == "" {
		o.Hostname = ownHostname()
	}
	if o.TrustDomain == "" {
		o.TrustDomain = defaultTrustDomain(o.Hostname)
	}
	if o.GatewayID == "" {
		o.GatewayID = "gw1"
	}
	if o.Listen == "" {
		o.Listen = defaultListen()
	}
	if o.MetricsListen == "" {
		o.MetricsListen = DefaultConfig().Metrics.Listen
	}
	if o.StateDir == "" {
		o.StateDir = DefaultConfig().StateDir
	}
	if o.ProviderName == "" {
		o.ProviderName = "corp"
	}
	if (o.Issuer == "") != (o.ClientID == "") {
		return o, errors.New("an issuer and a client ID go together: give both, or neither and add the provider later")
	}
	return o, o.check()
}

// check decodes what would be written, so that nothing is written that would
// not start.
func (o InitOptions) check() error {
	data, err := o.config()
	if err != nil {
		return err
	}
	cfg, err := parseConfig(ConfigFile, data)
	if err != nil {
		return err
	}
	cfg.file, cfg.origins = "", nil // the file is not there yet; its lines would mislead
	return cfg.Validate()
}

func (o InitOptions) config() ([]byte, error) {
	t, err := template.ParseFS(templates, "templates/gateway.yaml.tmpl")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, o); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (o InitOptions) makeConfig(path string) error {
	data, err := o.config()
	if err != nil {
		return err
	}
	return durable.CreateFile(path, data, 0o600)
}

func makePolicy(path string) error {
	data, err := templates.ReadFile("templates/policy.yaml")
	if err != nil {
		return err
	}
	return durable.CreateFile(path, data, 0o600)
}

func makeState(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fs.ErrExist
	}
	return durable.MkdirPrivate(path)
}

// ownHostname is this machine's name where it can stand in a configuration.
func ownHostname() string {
	name, err := os.Hostname()
	name = strings.ToLower(name)
	if err != nil || !dnsName.MatchString(name) {
		return "localhost"
	}
	return name
}

// defaultTrustDomain drops the first label where two remain: vpn.corp.example
// gives corp.example.
func defaultTrustDomain(hostname string) string {
	if _, err := netip.ParseAddr(hostname); err == nil {
		return "culvert.internal"
	}
	if _, rest, _ := strings.Cut(hostname, "."); strings.Contains(rest, ".") {
		return rest
	}
	return hostname
}

// defaultListen tries whether this user may listen on 443.
func defaultListen() string {
	l, err := net.Listen("tcp", ":443")
	if err == nil {
		_ = l.Close()
	}
	if errors.Is(err, syscall.EACCES) {
		return ":8443"
	}
	return ":443"
}

// explain adds what to do to the errors that operators meet.
func explain(err error, path string) error {
	hint := ""
	switch {
	case err == nil:
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program listens there; stop it or change the address"
	case errors.Is(err, syscall.EACCES) && strings.Contains(err.Error(), "listen"):
		hint = "ports below 1024 need rights: run as root, grant CAP_NET_BIND_SERVICE, or listen on :8443"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "this machine has no such address"
	case errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "disk is full"): // SQLite's words
		hint = "free some space and start again; nothing was half-written"
	case errors.Is(err, syscall.EROFS):
		hint = "the file system is read-only; name another folder"
	case errors.Is(err, fs.ErrPermission):
		hint = "this user (id " + strconv.Itoa(os.Getuid()) + ") may not; run as the owner of " + path + " or name another folder"
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}

func (o InitOptions) makeCA(path string) error {
	err := ca.Init(path, ca.Options{TrustDomain: auth.TrustDomain(o.TrustDomain), GatewayID: auth.GatewayID(o.GatewayID)})
	if errors.Is(err, ca.ErrExists) {
		return fs.ErrExist
	}
	return err
}
