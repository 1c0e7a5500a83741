package policy

import (
	"cmp"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/strictconf"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// decisions is testdata/decisions.yaml.
type decisions struct {
	Policy string              `yaml:"policy"`
	Known  map[string][]string `yaml:"known"`
	Grants []struct {
		ID      string `yaml:"id"`
		User    string `yaml:"user"`
		Service string `yaml:"service"`
		Until   string `yaml:"until"`
	} `yaml:"grants"`
	Defaults  decisionCase   `yaml:"defaults"`
	Decisions []decisionCase `yaml:"decisions"`
}

type decisionCase struct {
	Name string `yaml:"name"`

	At             string            `yaml:"at"`
	User           string            `yaml:"user"`
	EmailUntrusted bool              `yaml:"email_untrusted"`
	Groups         yaml.Node         `yaml:"groups"`
	Device         map[string]string `yaml:"device"`
	Age            time.Duration     `yaml:"age"`
	ACR            string            `yaml:"acr"`
	Login          string            `yaml:"login"`
	Client         string            `yaml:"client"`
	Target         string            `yaml:"target"`
	Resolves       string            `yaml:"resolves"` // the address that a name leads to
	Port           uint16            `yaml:"port"`     // the port that is dialed then, where it is not the target's
	Open           bool              `yaml:"open"`
	Stale          bool              `yaml:"stale"`

	Want      Expectation   `yaml:"want"`
	Code      wire.Code     `yaml:"code"`
	Service   *string       `yaml:"service"`
	Rule      string        `yaml:"rule"`
	Grant     string        `yaml:"grant"`
	Condition Condition     `yaml:"condition"`
	Reason    string        `yaml:"reason"`
	Says      string        `yaml:"says"` // is part of the reason
	Remedy    string        `yaml:"remedy"`
	Until     string        `yaml:"until"`
	MaxAge    time.Duration `yaml:"max_age"`
}

func TestDecisions(t *testing.T) {
	data, err := os.ReadFile("testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all decisions
	if err := strictconf.Decode("decisions.yaml", data, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Decisions) < 60 {
		t.Errorf("%d decisions", len(all.Decisions))
	}
	set := all.load(t)
	for _, c := range all.Decisions {
		c.At, c.User = cmp.Or(c.At, all.Defaults.At), cmp.Or(c.User, all.Defaults.User)
		t.Run(c.Name, func(t *testing.T) { c.run(t, set) })
	}
}

func (all *decisions) load(t *testing.T) *Set {
	t.Helper()
	grants := NewGrants()
	set, err := Load("decisions.yaml", []byte(all.Policy), Options{Providers: []string{"corp"}, Grants: grants})
	if err != nil {
		t.Fatal(err)
	}
	if w := set.Document().Warnings; len(w) != 2 { // the networks of all addresses
		t.Errorf("warnings %v", w)
	}
	for host, texts := range all.Known {
		for _, text := range texts {
			set.Learn(host, []netip.Addr{netip.MustParseAddr(text)})
		}
	}
	var list []Grant
	for _, g := range all.Grants {
		list = append(list, Grant{g.ID, person(g.User).UserID(), g.Service, instant(t, g.Until)})
	}
	grants.Replace(list)
	return set
}

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func (c *decisionCase) subject(t *testing.T) *Subject {
	id := person(c.User)
	if subject, ok := strings.CutPrefix(c.User, "corp:sub:"); ok {
		id.Subject, id.Email, id.EmailTrusted = subject, "", true
	}
	id.EmailTrusted = id.EmailTrusted && !c.EmailUntrusted
	id.ACR, id.Login = c.ACR, auth.LoginKind(c.Login)
	if c.Age != 0 {
		id.AuthTime = instant(t, c.At).Add(-c.Age)
	}
	switch {
	case c.Groups.Value == "unknown":
		id.GroupsKnown = false
	case c.Groups.Kind == yaml.SequenceNode:
		if err := c.Groups.Decode(&id.Groups); err != nil {
			t.Fatal(err)
		}
	}
	return NewSubject(id, DeviceFromPosture(c.Device))
}

func (c *decisionCase) run(t *testing.T, set *Set) {
	sub, r := c.subject(t), Request{Now: instant(t, c.At), Opening: !c.Open, Stale: c.Stale}
	if c.Client != "" {
		r.Client = netip.MustParseAddr(c.Client)
	}
	var isHost bool
	if r.Target, isHost = testTarget(c.Target); !isHost {
		r.Target = service(c.Target)
	}
	d := set.Decide(sub, r)
	if c.Resolves != "" && d.Allowed {
		d = set.DecideAddr(sub, r, d, netip.AddrPortFrom(netip.MustParseAddr(c.Resolves), cmp.Or(c.Port, d.Dial.Port)))
	}
	c.compare(t, d)
	checkExplained(t, set, d)
}

func (c *decisionCase) compare(t *testing.T, d Decision) {
	t.Helper()
	differs := func(what string, got, want any) { t.Errorf("%s: %v, want %v\n%+v", what, got, want, d) }
	if got := expectationOf(d); got != c.Want {
		differs("answer", got, c.Want)
	}
	for _, f := range []struct{ what, got, want string }{
		{"code", string(d.Code), string(c.Code)}, {"rule", d.Rule, c.Rule}, {"grant", d.Grant, c.Grant},
		{"condition", string(d.Condition), string(c.Condition)}, {"reason", d.Reason, c.Reason}, {"remedy", d.Remedy, c.Remedy},
	} {
		if f.want != "" && f.got != f.want {
			differs(f.what, f.got, f.want)
		}
	}
	if c.Service != nil && d.ServiceName() != *c.Service {
		differs("service", d.ServiceName(), *c.Service)
	}
	if !strings.Contains(d.Reason, c.Says) {
		differs("reason", d.Reason, c.Says)
	}
	if c.Until != "" && !d.Until.Equal(instant(t, c.Until)) {
		differs("until", d.Until, c.Until)
	}
	if c.MaxAge != 0 && (d.StepUp == nil || d.StepUp.MaxAge != c.MaxAge) {
		differs("step-up", d.StepUp, c.MaxAge)
	}
}
