package policy

import (
	_ "embed"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// mustLoad loads a policy that has to be right.
func mustLoad(t testing.TB, text string, providers ...string) *Set {
	t.Helper()
	s, err := Load("policy.yaml", []byte(text), Options{Providers: providers})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// person returns an identity of the provider "corp" with an e-mail address that counts.
func person(email string, groups ...string) auth.Identity {
	return auth.Identity{
		Issuer: "https://idp.example.com", Subject: "s-" + email, Provider: "corp",
		Email: email, EmailTrusted: email != "", Groups: groups, GroupsKnown: true,
	}
}

func service(name string) wire.Target { return wire.ServiceTarget(wire.KindTCP, name) }

func host(name string, port uint16) wire.Target { return wire.HostTarget(wire.KindTCP, name, port) }

// ask is the question whether a stream may be opened now.
func ask(t wire.Target) Request { return Request{Target: t, Opening: true} }

//go:embed testdata/example.yaml
var example []byte

func TestExampleLoadsAndPasses(t *testing.T) {
	s := mustLoad(t, string(example), "corp")
	if len(s.Document().Tests) == 0 || len(s.Document().Warnings) != 0 {
		t.Errorf("%d tests, warnings %v", len(s.Document().Tests), s.Document().Warnings)
	}
	if v := s.Version(); !strings.HasPrefix(v, "sha256:") || v != DigestOf(example).String() {
		t.Errorf("version %q", v)
	}
}

type wireServices = wire.Services
