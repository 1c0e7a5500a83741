package server

import (
	"time"

	"github.com/culvert-vpn/culvert/auth/oidc"
)

// A Config is everything that an operator sets, under the keys of the YAML
// file. DefaultConfig gives the defaults named here; LoadConfig reads a file, the
// environment (CULVERT_GATEWAY_ and the key in capitals, dots as underscores:
// CULVERT_GATEWAY_TLS_MODE) and flags over them, and Validate says all that is
// wrong at once. A Config that was handed to New must not be changed.
type Config struct {
	// Hostname is the DNS name (or IP address) that clients use. Required.
	Hostname string `yaml:"hostname"`
	// TrustDomain is the name inside every certificate that this installation
	// issues. The CA is made for one and keeps it. Required.
	TrustDomain string `yaml:"trust_domain"`
	// Listen is the one address of tunnel and HTTPS. Default ":443".
	Listen string `yaml:"listen"`
	// PublicURL is the address that people type into "culvert login", where it
	// is not https://HOSTNAME[:PORT of listen], as behind a port forwarding.
	PublicURL string `yaml:"public_url"`
	// Tunnel is the host:port that clients dial for the tunnel, where it is
	// not the one of PublicURL.
	Tunnel string `yaml:"tunnel"`
	// StateDir holds the database, the audit log, the self-issued certificate
	// and what ACME obtained. 0700. Default "state", beside the file.
	StateDir string `yaml:"state_dir"`
	// CADir holds the CA that "init" made: root and issuing key. 0700. Default
	// "ca", beside the file.
	CADir string `yaml:"ca_dir"`
	// Database is the address of the store. Default: sqlite, in StateDir.
	Database string `yaml:"database"`
	// DrainTimeout is how long open streams may go on after SIGTERM. Default 30s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	// DrainDelay is how long new connections are still accepted after /readyz
	// has said that the gateway is stopping: as long as a balancer takes to
	// notice. Default 0s.
	DrainDelay time.Duration `yaml:"drain_delay"`

	// DatabaseHold is how long the last view of locks counts while the database
	// is away; then no stream is opened any more. Default 5m.
	DatabaseHold time.Duration `yaml:"database_hold"`

	ProxyProtocol ProxyConfig           `yaml:"proxy_protocol"`
	Admin         AdminConfig           `yaml:"admin"`
	TLS           TLSConfig             `yaml:"tls"`
	Policy        PolicyConfig          `yaml:"policy"`
	Providers     []oidc.ProviderConfig `yaml:"providers"`
	Certificates  CertificatesConfig    `yaml:"certificates"`
	Groups        GroupsConfig          `yaml:"groups"`
	Dial          DialConfig            `yaml:"dial"`
	Limits        LimitsConfig          `yaml:"limits"`
	Audit         AuditConfig           `yaml:"audit"`
	Metrics       MetricsConfig         `yaml:"metrics"`
	Log           LogConfig             `yaml:"log"`

	origins map[string]string // key → where its value came from; nil outside LoadConfig
	file    string            // the file's name as errors print it
}

// A TLSConfig says with which certificate the gateway answers HTTPS. The
// tunnel never uses it: there both sides trust Culvert's own CA alone.
type TLSConfig struct {
	// Mode is "self" (a certificate of a CA of its own, for a private network:
	// clients are given its fingerprint), "files" or "acme". Default "self".
	Mode string `yaml:"mode"`
	// Certificate and Key are PEM files, for "files": leaf first, then the
	// intermediates. Read again when they change.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// Names are further names and addresses of a self-issued certificate.
	Names []string   `yaml:"names"`
	ACME  ACMEConfig `yaml:"acme"`
}

// An ACMEConfig is for TLS mode "acme". Challenges are answered on Listen by
// TLS-ALPN-01, so the authority must reach it as port 443 of Hostname.
type ACMEConfig struct {
	// Directory is the authority's address. Default Let's Encrypt.
	Directory string `yaml:"directory"`
	// Email is the account's contact; authorities warn it of expiry.
	Email string `yaml:"email"`
	// AgreeTerms must be true: you agree to the authority's terms.
	AgreeTerms bool `yaml:"agree_terms"`
	// RootCA is a PEM file that the authority's own HTTPS is verified with,
	// for one inside a company. Default: the system's roots.
	RootCA string `yaml:"root_ca"`
}

// A ProxyConfig is for a gateway behind TCP balancers that tell by the PROXY
// protocol, version 2, whom a connection comes from.
type ProxyConfig struct {
	// From lists the balancers' addresses and networks. They must send the header
	// on every connection; from everybody else it is refused. Default none.
	From []string `yaml:"from"`
}

// An AdminConfig says who may administrate. Nobody may by default but root on the
// gateway's machine.
type AdminConfig struct {
	// Socket is the Unix socket of "culvert-gateway admin", for root and the
	// gateway's own user. Default: admin.sock in StateDir. "off" is none.
	Socket string `yaml:"socket"`
	// Roles give people roles. They stand here and not in the policy, so that
	// who writes rules cannot make administrators.
	Roles []RoleConfig `yaml:"roles"`
}

// A RoleConfig gives a role to people: any of Groups or Users, written as in the
// policy.
type RoleConfig struct {
	// Role is viewer (reads), editor (changes rules, locks people out), approver
	// (answers requests) or owner (everything).
	Role   string   `yaml:"role"`
	Groups []string `yaml:"groups"`
	Users  []string `yaml:"users"`
}

// A PolicyConfig says where the access rules are.
type PolicyConfig struct {
	// Source is "file", where the file is what counts, or "managed", where
	// administrators change the rules by "culvert admin policy apply" and the
	// database keeps them. It is recorded in the store: a gateway whose store says
	// otherwise refuses to start.
	Source string `yaml:"source"`
	// File is read at start, on SIGHUP and when it changes. With the source
	// managed it is the first version of a new database, and nothing afterwards.
	// Default "policy.yaml".
	File string `yaml:"file"`
}

// A CertificatesConfig sets how long the employees' certificates last.
type CertificatesConfig struct {
	// TTL is one certificate's life; clients renew at 2/3 of it. A user who is
	// disabled at the provider is out after TTL at the latest. 1m to 24h,
	// default 1h.
	TTL time.Duration `yaml:"ttl"`
	// Session is how long after the person signed in at the provider renewals
	// are possible. Default 12h.
	Session time.Duration `yaml:"session"`
}

// A GroupsConfig bounds which of a provider's groups go into certificates.
type GroupsConfig struct {
	// Keep lists the groups to keep, "*" standing for any text; with more than
	// one provider as PROVIDER/GROUP. A policy with rules for others is refused.
	// Default all of them, as long as they fit into 16 KiB.
	Keep []string `yaml:"keep"`
}

// A DialConfig sets how the gateway reaches the services.
type DialConfig struct {
	// Timeout bounds resolving and connecting together. Default 15s.
	Timeout time.Duration `yaml:"timeout"`
	// Resolver is the host:port of the DNS server for service names. Default:
	// the system's.
	Resolver string `yaml:"resolver"`
}

// A LimitsConfig bounds what strangers and users can take. Zero is no limit
// nowhere: every value must be positive.
type LimitsConfig struct {
	// Connections are all open connections. Default 20000.
	Connections int `yaml:"connections"`
	// HTTPS are open HTTPS connections among them. One more displaces the
	// oldest. Default 2000, and 200 for one address.
	HTTPS           int `yaml:"https"`
	HTTPSPerAddress int `yaml:"https_per_address"`
	// Handshakes are connections whose TLS handshake is not done. One more
	// displaces the oldest. Default 4096, and 256 for one address.
	Handshakes           int `yaml:"handshakes"`
	HandshakesPerAddress int `yaml:"handshakes_per_address"`
	// HandshakeTimeout bounds one handshake. Default 10s.
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
	// ConnectionRate is new connections a second of one address (IPv6: one
	// /64), ConnectionBurst how many may come at once. Defaults 50 and 500.
	ConnectionRate  int `yaml:"connection_rate"`
	ConnectionBurst int `yaml:"connection_burst"`
	// Sessions are tunnels of everybody, SessionsPerUser those of one user.
	// Defaults 10000 and 32.
	Sessions        int `yaml:"sessions"`
	SessionsPerUser int `yaml:"sessions_per_user"`
	// StreamsPerSession (of one tunnel), StreamsPerUser and Streams (of
	// everybody) are open streams. Defaults 1024, 4096 and 100000.
	StreamsPerSession int `yaml:"streams_per_session"`
	StreamsPerUser    int `yaml:"streams_per_user"`
	Streams           int `yaml:"streams"`
	// EnrolmentRate is enrolment requests a minute of one address (IPv6: one
	// /64). Default 60.
	EnrolmentRate int `yaml:"enrolment_rate"`
	// EnrolmentRatePerUser is enrolments a minute of one person. Default 30.
	EnrolmentRatePerUser int `yaml:"enrolment_rate_per_user"`
}

// An AuditConfig sets the audit log, which lies in StateDir/audit. Sizes are in
// MiB.
type AuditConfig struct {
	// MaxFile is the size at which a file is followed by the next. Default 64.
	MaxFile int `yaml:"max_file"`
	// Keep is what all files together may take; beyond it the oldest are
	// removed, and the log says so. Default 0: everything is kept.
	Keep int `yaml:"keep"`
	// MinFree is the free space below which new streams are refused, since
	// they could not be recorded. Default 64.
	MinFree int `yaml:"min_free"`
	// OnFailure is "refuse" (no new stream while records cannot be written) or
	// "continue" (streams go on unrecorded, and the gateway says so all the time).
	// Default "refuse".
	OnFailure string `yaml:"on_failure"`
	// Export sends every record to other places too.
	Export []ExportConfig `yaml:"export"`
	// Index is how many days the database's index of the audit log goes back; the
	// log itself is Keep's. Default 90.
	Index int `yaml:"index_days"`
}

// An ExportConfig is one place that audit records are sent to.
type ExportConfig struct {
	// Name tells exports apart; its position is kept under it. Required.
	Name string `yaml:"name"`
	// Kind is "stdout", "file" or "syslog".
	Kind string `yaml:"kind"`
	// Path is the file of kind file.
	Path string `yaml:"path"`
	// Address is that of kind syslog: tcp://HOST:PORT, udp://HOST:PORT or
	// unix:///PATH.
	Address string `yaml:"address"`
}

// A MetricsConfig sets the Prometheus listener.
type MetricsConfig struct {
	// Listen is a loopback address, "" for none. Default "127.0.0.1:9464".
	Listen string `yaml:"listen"`
	// UnsafeListen permits any address: whoever reaches it reads user counts
	// and the like without a login.
	UnsafeListen string `yaml:"unsafe_listen"`
}

// A LogConfig sets the log on standard error.
type LogConfig struct {
	// Level is debug, info, warn or error; a reload changes it. Default info.
	Level string `yaml:"level"`
	// Format is text or json. Default text.
	Format string `yaml:"format"`
}

// LetsEncrypt is the default ACME directory.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// DefaultConfig returns the defaults; Hostname, TrustDomain and Providers are
// left to be set.
func DefaultConfig() Config {
	return Config{
		Listen:       ":443",
		StateDir:     "state",
		CADir:        "ca",
		DrainTimeout: 30 * time.Second,
		DatabaseHold: 5 * time.Minute,
		TLS:          TLSConfig{Mode: "self", ACME: ACMEConfig{Directory: LetsEncrypt}},
		Policy:       PolicyConfig{Source: "file", File: "policy.yaml"},
		Certificates: CertificatesConfig{TTL: time.Hour, Session: 12 * time.Hour},
		Dial:         DialConfig{Timeout: 15 * time.Second},
		Limits: LimitsConfig{
			Connections: 20000, HTTPS: 2000, HTTPSPerAddress: 200,
			Handshakes: 4096, HandshakesPerAddress: 256, HandshakeTimeout: 10 * time.Second,
			ConnectionRate: 50, ConnectionBurst: 500,
			Sessions: 10000, SessionsPerUser: 32, StreamsPerSession: 1024, StreamsPerUser: 4096, Streams: 100000,
			EnrolmentRate: 60, EnrolmentRatePerUser: 30,
		},
		Audit:   AuditConfig{MaxFile: 64, MinFree: 64, OnFailure: "refuse", Index: 90},
		Metrics: MetricsConfig{Listen: "127.0.0.1:9464"},
		Log:     LogConfig{Level: "info", Format: "text"},
	}
}
