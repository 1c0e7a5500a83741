package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// largePolicy has 10,000 rules over 1,000 services, a fifth of them networks of many lengths.
func largePolicy(b testing.TB) *Set {
	b.Helper()
	return mustLoad(b, largePolicyText(), "corp")
}

func largePolicyText() string {
	var t strings.Builder
	t.WriteString("version: 1\nservices:\n")
	for i := range 1000 {
		if i%5 == 0 {
			fmt.Fprintf(&t, "  net%d: {network: %s, ports: [22, 443, 8000-8999], tags: [t%d]}\n", i, networkFor(i), i%20)
			continue
		}
		fmt.Fprintf(&t, "  s%d: {address: 'h%d.internal:443', hostnames: [s%d.corp.example], tags: [t%d]}\n", i, i, i, i%20)
	}
	t.WriteString("rules:\n")
	for i := range 10_000 {
		effect := "allow"
		if i%10 == 9 {
			effect = "deny"
		}
		svc := fmt.Sprintf("s%d", (i%1000)/5*5+1)
		fmt.Fprintf(&t, "  - {name: r%d, subjects: {groups: [g%d], users: [u%d@corp.example]}, %s: [%s, 'tag:t%d']}\n", i, i%500, i, effect, svc, i%20)
	}
	return t.String()
}

// networkFor spreads networks over the lengths from /12 to /31.
func networkFor(i int) string {
	bits := 12 + i/5%20
	return fmt.Sprintf("%d.%d.0.0/%d", 10+i/5/100, i/5%16*16, bits)
}

func BenchmarkDecide(b *testing.B) {
	s := largePolicy(b)
	subject := NewSubject(person("u7@corp.example", "g3", "g14", "g159"), Device{})
	now := time.Now()
	for _, bb := range []struct {
		name   string
		target wire.Target
	}{
		{"service", service("s501")},
		{"hostname", host("s501.corp.example", 443)},
		{"address", host("10.0.0.1", 443)},
		{"address/none", host("192.0.2.1", 443)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(subject, Request{Target: bb.target, Now: now, Opening: true})
			}
		})
	}
}

// BenchmarkDecideConditions is a service of the same policy that one more rule allows, by a condition.
func BenchmarkDecideConditions(b *testing.B) {
	for _, bb := range []struct {
		name, keys string
		code       wire.Code
	}{
		{"window", "not_before: 2026-01-01T00:00:00Z, expires: 2036-01-01T00:00:00Z", wire.CodeOK},
		{"reauth", "reauth_within: 15m", wire.CodeOK},
		{"cel", `when: 'device.os == "linux" && auth.age < duration("12h")'`, wire.CodeOK},
		{"cel hours", `when: 'now.getDayOfWeek("Europe/Berlin") < 7'`, wire.CodeOK},
		{"cel network", `when: 'cidr("10.0.0.0/8").containsIP(request.client)'`, wire.CodeOK},
		{"cel groups", `when: 'user.groups.exists(g, g.startsWith("g15"))'`, wire.CodeOK},
		{"cel unknown", `when: device.disk_encrypted`, wire.CodeDenied},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := mustLoad(b, largePolicyText()+"  - {name: more, subjects: {groups: [g3]}, allow: [s502], "+bb.keys+"}\n", "corp")
			id := person("u7@corp.example", "g3", "g14", "g159")
			now := time.Now()
			id.AuthTime = now.Add(-time.Minute)
			subject := NewSubject(id, Device{OS: "linux"})
			r := Request{Target: service("s502"), Now: now, Opening: true, Client: netip.MustParseAddr("10.1.2.3")}
			if d := s.Decide(subject, r); d.Code != bb.code {
				b.Fatalf("%s: %s", d.Code, d.Reason)
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(subject, r)
			}
		})
	}
}

func BenchmarkSubject(b *testing.B) {
	s := largePolicy(b)
	b.ReportAllocs()
	for b.Loop() {
		s.Decide(NewSubject(person("u7@corp.example", "g3", "g14", "g159"), Device{}), ask(service("s501")))
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		largePolicy(b)
	}
}

// The bar of decisions that are spelled as the policy spells them: no allocation, allowed or not.
func TestDecideDoesNotAllocate(t *testing.T) {
	s := mustLoad(t, office, "corp")
	ada := sub("ada@corp.example", "engineering", "juniors")()
	for name, target := range map[string]wire.Target{
		"allowed": service("wiki"), "denied": service("payroll"), "hostname": host("wiki.corp.example", 80),
		"address allowed": host("10.20.6.1", 22),
		"address denied":  host("10.20.5.1", 22),
	} {
		if n := testing.AllocsPerRun(100, func() { s.Decide(ada, ask(target)) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
