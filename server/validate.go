package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/policy"
)

// A Fault is one setting that cannot be used.
type Fault struct {
	Where   string // "gateway.yaml:3:1", "environment CULVERT_GATEWAY_…", or the file's name
	Key     string // "tls.mode"
	Problem string // what is wrong and what to do
}

func (f *Fault) Error() string {
	if f.Where == "" {
		return f.Key + ": " + f.Problem
	}
	return f.Where + ": " + f.Key + ": " + f.Problem
}

type faults struct {
	cfg  *Config
	list []error
}

// add notes a fault of key, with the place that set it.
func (f *faults) add(key, format string, args ...any) {
	where := f.cfg.origins[key]
	if where == "" {
		where = f.cfg.file
	}
	f.list = append(f.list, &Fault{where, key, fmt.Sprintf(format, args...)})
}

func (f *faults) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		f.add(key, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func (f *faults) between(key string, value, low, high time.Duration) {
	if value < low || value > high {
		f.add(key, "%s is not between %s and %s", value, low, high)
	}
}

func (f *faults) positive(key string, value int) {
	if value < 1 {
		f.add(key, "%d is no limit; set a number of at least 1", value)
	}
}

// Validate reports everything that is wrong (errors.Join of *Fault and of the
// providers' errors), or nil. It opens no file and no socket. A configuration
// without a provider is valid: the gateway starts, and says at /readyz that
// nobody can log in.
func (c *Config) Validate() error {
	f := &faults{cfg: c}
	f.identity(c)
	f.addresses(c)
	f.tls(&c.TLS)
	f.times(c)
	f.limits(&c.Limits)
	f.dial(&c.Dial)
	f.providers(c.Providers)
	f.admin(&c.Admin)
	if _, err := parseProxyTrust(c.ProxyProtocol.From); err != nil {
		f.add("proxy_protocol.from", "%v", err)
	}
	f.oneOf("policy.source", c.Policy.Source, "file", "managed")
	if c.Policy.File == "" {
		f.add("policy.file", "is missing; name the file with the access rules")
	}
	f.positive("audit.max_file", c.Audit.MaxFile)
	f.positive("audit.min_free", c.Audit.MinFree)
	f.audit(&c.Audit)
	f.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	f.oneOf("log.format", c.Log.Format, "text", "json")
	return errors.Join(f.list...)
}

var dnsName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// validHost accepts an address or a lower-case ASCII DNS name.
func validHost(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Zone() == ""
	}
	return len(s) <= 253 && dnsName.MatchString(s)
}

func (f *faults) identity(c *Config) {
	switch {
	case c.Hostname == "":
		f.add("hostname", "is missing; set the name that clients use, such as vpn.corp.example")
	case !validHost(c.Hostname):
		f.add("hostname", "%q is neither a lower-case DNS name nor an address", c.Hostname)
	}
	switch {
	case c.TrustDomain == "":
		f.add("trust_domain", "is missing; set the name that \"culvert-gateway init\" made the CA for, such as corp.example")
	case len(c.TrustDomain) > 253 || !dnsName.MatchString(c.TrustDomain):
		f.add("trust_domain", "%q is no lower-case DNS name", c.TrustDomain)
	}
	if c.StateDir == "" {
		f.add("state_dir", "is missing; name the folder for the database and the audit log")
	}
	if c.CADir == "" {
		f.add("ca_dir", "is missing; name the folder that \"culvert-gateway init\" put the CA into")
	}
	f.database(c)
}

func (f *faults) database(c *Config) {
	const forms = "write sqlite:///ABSOLUTE/PATH, or postgres://USER:PASSWORD@HOST/DATABASE"
	switch scheme, rest, _ := strings.Cut(c.Database, "://"); scheme {
	case "":
	case "sqlite":
		if !strings.HasPrefix(rest, "/") {
			f.add("database", "has no absolute path: %s", forms)
		}
	case "postgres", "postgresql":
		if u, err := url.Parse(c.Database); err != nil || u.Path == "" || u.Path == "/" { // what is wrong with it may be the password
			f.add("database", "cannot be read: %s; percent-encode what is special in the password", forms)
		}
	default:
		f.add("database", "is of no known kind: %s", forms)
	}
	f.between("database_hold", c.DatabaseHold, 0, 24*time.Hour)
}

func (f *faults) audit(a *AuditConfig) {
	if a.Keep < 0 {
		f.add("audit.keep", "%d is negative; 0 keeps everything", a.Keep)
	}
	f.positive("audit.index_days", a.Index)
	f.oneOf("audit.on_failure", a.OnFailure, "refuse", "continue")
	names := make(map[string]bool)
	for i, e := range a.Export {
		key := fmt.Sprintf("audit.export[%d]", i)
		switch {
		case !exportName.MatchString(e.Name):
			f.add(key, "name %q: give it a name of lower-case letters, digits and dashes; its position is kept under that", e.Name)
		case names[e.Name]:
			f.add(key, "name %q: another export has it too", e.Name)
		}
		names[e.Name] = true
		f.export(key, e)
	}
}

var exportName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (f *faults) export(key string, e ExportConfig) {
	switch e.Kind {
	case "stdout":
	case "file":
		if !filepath.IsAbs(e.Path) {
			f.add(key, "path %q: name the file with an absolute path", e.Path)
		}
	case "syslog":
		u, err := url.Parse(e.Address)
		if err != nil || !slices.Contains([]string{"tcp", "udp", "unix"}, u.Scheme) || (u.Scheme == "unix") == (u.Path == "") {
			f.add(key, "address %q: write tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH", e.Address)
		} else if u.Scheme != "unix" && !validEndpoint(u.Host) {
			f.add(key, "address %q: %q is not HOST:PORT", e.Address, u.Host)
		}
	default:
		f.add(key, "kind %q is not one of stdout, file, syslog", e.Kind)
	}
}

func (f *faults) admin(a *AdminConfig) {
	if a.Socket != "" && a.Socket != "off" && !filepath.IsAbs(a.Socket) {
		f.add("admin.socket", "%q is no absolute path; write one, or off", a.Socket)
	}
	for i, r := range a.Roles {
		key := fmt.Sprintf("admin.roles[%d]", i)
		if _, err := adminapi.ParseRole(r.Role); err != nil {
			f.add(key, "%v", err)
		}
		if len(r.Groups)+len(r.Users) == 0 {
			f.add(key, "nobody has this role: name groups or users")
		}
		if _, err := policy.ParsePeople(r.Groups, r.Users, f.cfg.providerNames()); err != nil {
			f.add(key, "%v", err)
		}
		for _, u := range r.Users {
			if u == "*" || strings.HasSuffix(u, ":*") {
				f.add(key, "user %q is everybody: name people", u)
			}
		}
	}
}

func (f *faults) addresses(c *Config) {
	if _, _, err := splitListen(c.Listen); err != nil {
		f.add("listen", "%v", err)
	}
	if c.Tunnel != "" && !validEndpoint(c.Tunnel) {
		f.add("tunnel", "%q is not host:port, such as vpn.corp.example:443", c.Tunnel)
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Scheme != "https" || !validHost(u.Hostname()) || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			f.add("public_url", "%q is not of the form https://HOST[:PORT]", c.PublicURL)
		}
	}
	f.metrics(&c.Metrics)
}

func (f *faults) metrics(m *MetricsConfig) {
	if m.UnsafeListen != "" {
		if _, _, err := splitListen(m.UnsafeListen); err != nil {
			f.add("metrics.unsafe_listen", "%v", err)
		}
	}
	if m.Listen == "" {
		return
	}
	host, _, err := splitListen(m.Listen)
	if err != nil {
		f.add("metrics.listen", "%v", err)
		return
	}
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.Unmap().IsLoopback()) {
		f.add("metrics.listen", "%q is not a loopback address: whoever reaches it reads user counts without a login. "+
			"Use 127.0.0.1:9464, or metrics.unsafe_listen (flag --unsafe-metrics-listen) if that is what you want", m.Listen)
	}
}

// splitListen takes "HOST:PORT" or ":PORT" apart.
func splitListen(s string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(s)
	if err != nil {
		return "", "", fmt.Errorf("%q is not ADDRESS:PORT or :PORT, such as :443", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", "", fmt.Errorf("%q has no port between 0 and 65535", s)
	}
	if host != "" && !validHost(host) {
		return "", "", fmt.Errorf("%q has neither an address nor a name before the port", s)
	}
	return host, port, nil
}

func validEndpoint(s string) bool {
	host, port, err := splitListen(s)
	return err == nil && host != "" && port != "0"
}

func (f *faults) tls(t *TLSConfig) {
	f.oneOf("tls.mode", t.Mode, "self", "files", "acme")
	for _, name := range t.Names {
		if !validHost(name) {
			f.add("tls.names", "%q is neither a lower-case DNS name nor an address", name)
		}
	}
	switch t.Mode {
	case "files":
		if t.Certificate == "" {
			f.add("tls.certificate", "is missing; tls.mode files needs the PEM file with the chain, leaf first")
		}
		if t.Key == "" {
			f.add("tls.key", "is missing; tls.mode files needs the PEM file with the private key")
		}
	case "acme":
		f.acme(&t.ACME)
	}
}

func (f *faults) acme(a *ACMEConfig) {
	if !a.AgreeTerms {
		f.add("tls.acme.agree_terms", "must be true: the authority issues only to those who agree to its terms")
	}
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		f.add("tls.acme.directory", "%q is not an https:// address", a.Directory)
	}
	if f.cfg.Hostname != "" {
		if _, err := netip.ParseAddr(f.cfg.Hostname); err == nil {
			f.add("tls.mode", "acme needs a DNS name as hostname, not the address %s", f.cfg.Hostname)
		}
	}
}

func (f *faults) times(c *Config) {
	f.between("drain_timeout", c.DrainTimeout, 0, 24*time.Hour)
	f.between("drain_delay", c.DrainDelay, 0, 10*time.Minute)
	f.between("certificates.ttl", c.Certificates.TTL, time.Minute, 24*time.Hour)
	f.between("certificates.session", c.Certificates.Session, c.Certificates.TTL, 31*24*time.Hour)
	if slices.Contains(c.Groups.Keep, "") {
		f.add("groups.keep", "an entry is empty; write a group's name, in which * stands for any text")
	}
}

func (f *faults) limits(l *LimitsConfig) {
	for _, v := range []struct {
		key   string
		value int
	}{
		{"connections", l.Connections}, {"https", l.HTTPS}, {"https_per_address", l.HTTPSPerAddress}, {"handshakes", l.Handshakes},
		{"handshakes_per_address", l.HandshakesPerAddress}, {"connection_rate", l.ConnectionRate},
		{"connection_burst", l.ConnectionBurst}, {"sessions", l.Sessions}, {"sessions_per_user", l.SessionsPerUser},
		{"streams_per_session", l.StreamsPerSession}, {"streams_per_user", l.StreamsPerUser},
		{"streams", l.Streams}, {"enrolment_rate", l.EnrolmentRate},
		{"enrolment_rate_per_user", l.EnrolmentRatePerUser},
	} {
		f.positive("limits."+v.key, v.value)
	}
	f.between("limits.handshake_timeout", l.HandshakeTimeout, 100*time.Millisecond, time.Minute)
}

func (f *faults) dial(d *DialConfig) {
	f.between("dial.timeout", d.Timeout, 100*time.Millisecond, 2*time.Minute)
	if d.Resolver != "" {
		if _, err := netip.ParseAddrPort(d.Resolver); err != nil {
			f.add("dial.resolver", "%q is not ADDRESS:PORT, such as 10.0.0.53:53", d.Resolver)
		}
	}
}

func (f *faults) providers(providers []oidc.ProviderConfig) {
	if len(providers) == 0 {
		return
	}
	err := oidc.ValidateProviders(providers)
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			f.provider(one)
		}
	} else if err != nil {
		f.provider(err)
	}
}

// provider places the text "providers[1]: …" at the entry's line.
func (f *faults) provider(err error) {
	key, problem, ok := strings.Cut(err.Error(), ": ")
	if !ok || !strings.HasPrefix(key, "providers") {
		key, problem = "providers", err.Error()
	}
	for line := range strings.SplitSeq(problem, "\n") {
		f.add(key, "%s", line)
	}
}

// databaseURL is Database, or the SQLite file in the state folder.
func (c *Config) databaseURL() string {
	if c.Database != "" {
		return c.Database
	}
	return "sqlite://" + filepath.ToSlash(filepath.Join(c.StateDir, "gateway.db"))
}

// publicURL is what people type, given the port that is really listened on.
func (c *Config) publicURL(port int) string {
	switch {
	case c.PublicURL != "":
		return strings.TrimRight(c.PublicURL, "/")
	case port == 443:
		return "https://" + bracketed(c.Hostname)
	default:
		return "https://" + net.JoinHostPort(c.Hostname, strconv.Itoa(port))
	}
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}
