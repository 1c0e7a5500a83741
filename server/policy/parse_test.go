package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// doc completes a fragment to a policy file; the fragment begins in line 2.
func doc(fragment string) string { return "version: 1\n" + fragment }

const wiki = "services:\n  wiki: {address: 'wiki.internal:8080', tags: [office]}\n"

// ruleWith returns a rule for wiki in line 5 with more keys, which begin in column 57.
func ruleWith(more string) string {
	return "rules:\n  - {name: r, subjects: {groups: [a]}, allow: [wiki],   " + more + "}\n"
}

// longRule is one in lines 4 to 7, to which keys can be added.
const longRule = "rules:\n  - name: r\n    subjects: {groups: [a]}\n    allow: [wiki]\n"

func TestParseFaultsHaveAPlaceAndAHint(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", `p.yaml: the file is empty`},
		{"no version", "services: {}\n", `p.yaml:1:1: the key "version" is missing`},
		{"other version", "version: 2\n", `p.yaml:1:10: version: "2" is not 1, the only one that this program knows`},
		{"version in words", "version: one\n", `p.yaml:1:10: version: "one"`},
		{"list", "- a\n", `p.yaml:1:1: want the policy here, a section with keys`},
		{"unknown key", doc("sevices: {}\n"), `p.yaml:2:1: unknown key "sevices" in the policy (did you mean "services"?)`},
		{"key twice", doc("rules: []\nrules: []\n"), `p.yaml:3:1: "rules" stands here a second time`},
		{"anchor", doc("services: &a {}\n"), `p.yaml:2:11: anchors and aliases are not accepted`},
		{"second document", doc("---\nversion: 1\n"), `a second document starts here`},
		{"bare star", doc("rules:\n  - {name: r, subjects: {groups: [g]}, allow: [*]}\n"), `"*", in quotes`},

		{"service name", doc("services:\n  Wiki: {address: 'a.b:1'}\n"), `p.yaml:3:3: service "Wiki": a name is 1 to 63`},
		{"reserved name", doc("services:\n  culvert-admin: {address: 'a.b:1'}\n"), `p.yaml:3:3: service "culvert-admin": names that begin with "culvert-"`},
		{"service key", doc("services:\n  wiki: {adress: 'a.b:1'}\n"), `p.yaml:3:10: unknown key "adress" in the service "wiki" (did you mean "address"?)`},
		{"neither", doc("services:\n  wiki: {description: x}\n"), `p.yaml:3:3: service "wiki" has neither "address"`},
		{"both", doc("services:\n  wiki: {address: 'a.b:1', network: 10.0.0.0/8, ports: [1]}\n"), `has an address and a network`},
		{"address without port", doc("services:\n  wiki: {address: wiki.internal}\n"), `p.yaml:3:19: address "wiki.internal": want host:port`},
		{"address port 0", doc("services:\n  wiki: {address: 'a.b:0'}\n"), `want host:port`},
		{"address port spelled oddly", doc("services:\n  wiki: {address: 'a.b:080'}\n"), `want host:port`},
		{"v6 without brackets", doc("services:\n  wiki: {address: '2001:db8::1:443'}\n"), `want host:port`},
		{"address zone", doc("services:\n  wiki: {address: '[fe80::1%eth0]:443'}\n"), `a zone means nothing`},
		{"address mapped", doc("services:\n  wiki: {address: '[::ffff:10.0.0.1]:443'}\n"), `write 10.0.0.1`},
		{"address unspecified", doc("services:\n  wiki: {address: '0.0.0.0:443'}\n"), `not the address of one machine`},
		{"address multicast", doc("services:\n  wiki: {address: '224.0.0.1:443'}\n"), `not the address of one machine`},
		{"address octal", doc("services:\n  wiki: {address: '0177.0.0.1:443'}\n"), `neither a name nor an address: it looks like an address`},
		{"address localhost", doc("services:\n  wiki: {address: 'localhost:443'}\n"), `write 127.0.0.1:443`},
		{"protocol", doc("services:\n  wiki: {address: 'a.b:1', protocol: tpc}\n"), `protocol "tpc": tcp, udp or http (did you mean "tcp"?)`},
		{"protocol list", doc("services:\n  wiki: {address: 'a.b:1', protocol: [tcp]}\n"), `p.yaml:3:38: want protocol here`},
		{"number for text", doc("services:\n  wiki: {address: 'a.b:1', description: 12}\n"), `write "12" in quotes`},
		{"bool for text", doc("services:\n  wiki: {address: 'a.b:1', description: true}\n"), `write "true" in quotes`},
		{"bidi in text", doc("services:\n  wiki: {address: 'a.b:1', description: \"a\\u202eb\"}\n"), `another character that is not printed`},
		{"host name is address", doc("services:\n  wiki: {address: 'a.b:1', hostnames: [10.0.0.1]}\n"), `host name "10.0.0.1": it looks like an address`},
		{"host name decimal", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['2130706433']}\n"), `it looks like an address`},
		{"host name localhost", doc("services:\n  wiki: {address: 'a.b:1', hostnames: [Wiki.LocalHost]}\n"), `means each desktop itself`},
		{"host name twice", doc("services:\n  wiki: {address: 'a.b:1', hostnames: [w.x, W.X.]}\n"), `host name "w.x" stands here a second time`},
		{"host name with space", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['a b']}\n"), `a character that no name has`},
		{"host name bad punycode", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['xn--a.x']}\n"), `not spelled as a name can be`},
		{"endpoint taken", doc("services:\n  a: {address: 'a.b:1', hostnames: [w.x], port: 80}\n  b: {address: 'a.c:2', hostnames: [w.x], port: 80}\n"), `p.yaml:4:3: service "b": w.x with tcp port 80 is the service "a" already (line 3)`},
		{"port too large", doc("services:\n  wiki: {address: 'a.b:1', port: 65536}\n"), `port: "65536" is no number from 1 to 65535`},
		{"port octal", doc("services:\n  wiki: {address: 'a.b:1', port: 022}\n"), `port: "022" is no number`},
		{"tag grammar", doc("services:\n  wiki: {address: 'a.b:1', tags: [Office]}\n"), `tag "Office": 1 to 63`},
		{"tag twice", doc("services:\n  wiki: {address: 'a.b:1', tags: [a, a]}\n"), `p.yaml:3:38: tag "a" stands here a second time`},
		{"ports on named", doc("services:\n  wiki: {address: 'a.b:1', ports: [1]}\n"), `the key "ports" is only for networks`},
		{"hostnames on network", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [1], hostnames: [a.b]}\n"), `the key "hostnames" is only for named services`},
		{"network without ports", doc("services:\n  lab: {network: 10.0.0.0/8}\n"), `p.yaml:3:3: service "lab": a network needs "ports"`},
		{"network empty ports", doc("services:\n  lab: {network: 10.0.0.0/8, ports: []}\n"), `the list is empty`},
		{"network bits behind", doc("services:\n  lab: {network: 10.1.2.3/8, ports: [1]}\n"), `did you mean 10.0.0.0/8?`},
		{"network one address", doc("services:\n  lab: {network: 10.1.2.3, ports: [1]}\n"), `written 10.1.2.3/32`},
		{"network mapped", doc("services:\n  lab: {network: '::ffff:10.0.0.0/104', ports: [1]}\n"), `write it as an IPv4 network`},
		{"network words", doc("services:\n  lab: {network: here, ports: [1]}\n"), `want an address and a length`},
		{"network loopback", doc("services:\n  lab: {network: 127.0.0.0/8, ports: [1]}\n"), `each address in it is a loopback address`},
		{"network link-local part", doc("services:\n  lab: {network: 169.254.7.0/24, ports: [1]}\n"), `each address in it is a link-local address`},
		{"network NAT64", doc("services:\n  lab: {network: '64:ff9b::/96', ports: [1]}\n"), `a NAT64 spelling`},
		{"port range", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [90-80]}\n"), `ports: "90-80" is no port`},
		{"port overlap", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [80-90, 85]}\n"), `ports: 85 overlaps 80-90`},

		{"rule without name", doc(wiki + "rules:\n  - {subjects: {groups: [a]}, allow: [wiki]}\n"), `p.yaml:5:5: a rule needs a name`},
		{"rule without subjects", doc(wiki + "rules:\n  - {name: r, allow: [wiki]}\n"), `a rule needs subjects`},
		{"rule without effect", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}}\n"), `needs "allow" or "deny"`},
		{"empty subjects", doc(wiki + "rules:\n  - {name: r, subjects: {}, allow: [wiki]}\n"), `subjects name nobody`},
		{"rule twice", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, allow: [wiki]}\n  - {name: r, subjects: {groups: [a]}, allow: [wiki]}\n"), `p.yaml:6:5: a rule named "r" stands in line 5 already`},
		{"unknown service", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, allow: [wikki]}\n"), `p.yaml:5:48: there is no service "wikki" (did you mean "wiki"?)`},
		{"unknown tag", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, allow: ['tag:offce']}\n"), `no service has the tag "offce" (did you mean "office"?)`},
		{"tag without prefix", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, allow: [office]}\n"), `there is no service "office" (did you mean "tag:office"?)`},
		{"entry twice", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, allow: [wiki, wiki]}\n"), `"wiki" stands here a second time`},
		{"allowed and denied", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, allow: [wiki], deny: [wiki]}\n"), `allows and denies "wiki"`},
		{"user form", doc(wiki + "rules:\n  - {name: r, subjects: {users: [ada]}, allow: [wiki]}\n"), `user "ada": want an e-mail address`},
		{"user two ats", doc(wiki + "rules:\n  - {name: r, subjects: {users: [a@evil@corp.example]}, allow: [wiki]}\n"), `user "a@evil@corp.example": want an e-mail address`},
		{"user bare subject", doc(wiki + "rules:\n  - {name: r, subjects: {users: ['sub:1']}, allow: [wiki]}\n"), `user "sub:1"`},
		{"user provider", doc(wiki + "rules:\n  - {name: r, subjects: {users: ['Corp:a@b.c']}, allow: [wiki]}\n"), `"Corp" is no name of a provider`},
		{"users not a list", doc(wiki + "rules:\n  - {name: r, subjects: {users: a@b.c}, allow: [wiki]}\n"), `want users here, a list`},
		{"group number", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [12]}, allow: [wiki]}\n"), `group: write "12" in quotes`},

		{"hidden", doc("services:\n  wiki: {address: 'a.b:1', hidden: yes}\n"), `p.yaml:3:36: hidden: write true or false`},
		{"hidden and requestable", doc("services:\n  wiki: {address: 'a.b:1', hidden: true, requestable: {max: 4h}}\n"), `is hidden and requestable`},
		{"requestable without max", doc("services:\n  wiki: {address: 'a.b:1', requestable: {approvers: {groups: [it]}}}\n"), `requestable needs "max"`},
		{"requestable key", doc("services:\n  wiki: {address: 'a.b:1', requestable: {max: 4h, approver: {}}}\n"), `unknown key "approver" in requestable (did you mean "approvers"?)`},
		{"requestable by everybody", doc("services:\n  wiki: {address: 'a.b:1', requestable: {max: 4h, approvers: {users: ['*']}}}\n"), `would let anybody approve`},
		{"requestable for no time", doc("services:\n  wiki: {address: 'a.b:1', requestable: {max: 0s}}\n"), `max: "0s" is no duration`},
		{"wildcard in the middle", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['a.*.x']}\n"), `a wildcard is "*." and a name`},
		{"wildcard alone", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['*']}\n"), `a wildcard is "*." and a name`},
		{"wildcard twice", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['*.*.wiki.x']}\n"), `a wildcard is "*." and a name`},
		{"wildcard over a top-level domain", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['*.corp']}\n"), `a wildcard over a top-level domain`},
		{"wildcard over a suffix", doc("services:\n  wiki: {address: 'a.b:1', hostnames: ['*.co.uk']}\n"), `a wildcard over a top-level domain`},
		{"wildcard taken", doc("services:\n  a: {address: 'a.b:1', hostnames: ['*.w.x'], port: 80}\n  b: {address: 'a.c:2', hostnames: ['*.W.x'], port: 80}\n"), `service "b": *.w.x with tcp port 80 is the service "a" already (line 3)`},
		{"zones on named", doc("services:\n  wiki: {address: 'a.b:1', zones: [x.y]}\n"), `the key "zones" is only for networks`},
		{"zone top-level", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [22], zones: [corp]}\n"), `p.yaml:3:51: zone "corp" is a top-level domain`},
		{"zone suffix", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [22], zones: [co.uk]}\n"), `zone "co.uk" is a top-level domain`},
		{"zone wildcard", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [22], zones: ['*.lab.x']}\n"), `zone "*.lab.x": write the domain alone`},
		{"zone with dot", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [22], zones: [.lab.x]}\n"), `zone ".lab.x": write the domain alone`},
		{"zone localhost", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [22], zones: [a.localhost]}\n"), `means each desktop itself`},
		{"zone address", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [22], zones: [10.0.0.1]}\n"), `zone "10.0.0.1": it looks like an address`},
		{"zone twice", doc("services:\n  lab: {network: 10.0.0.0/8, ports: [22], zones: [lab.x, LAB.x.]}\n"), `zone "lab.x" stands here a second time`},
		{"zone of two", doc("services:\n  a: {network: 10.0.0.0/9, ports: [22], zones: [lab.x]}\n  b: {network: 10.128.0.0/9, ports: [1-100], zones: [lab.x]}\n"), `service "b": the zone lab.x with these ports is of the service "a" already (line 3)`},
		{"host name in a zone", doc("services:\n  a: {network: 10.0.0.0/9, ports: [22], zones: [lab.x]}\n  b: {address: 'a.b:22', hostnames: [b.lab.x]}\n"), `b.lab.x with tcp port 22 is ambiguous: it is also in the zone lab.x of the service "a" (line 3)`},
		{"wildcard over a zone", doc("services:\n  a: {network: 10.0.0.0/9, ports: [22], zones: [rack.lab.x]}\n  b: {address: 'a.b:22', hostnames: ['*.lab.x']}\n"), `is ambiguous`},

		{"condition type", doc(wiki + ruleWith("when: 'device.os'")), `p.yaml:5:64: when: the condition is of type string, and must be true or false`},
		{"condition dyn", doc(wiki + ruleWith("when: 'dyn(true)'")), `of type dyn`},
		{"condition bool", doc(wiki + ruleWith("when: true")), `write "true" in quotes`},
		{"condition empty", doc(wiki + ruleWith("when: ' '")), `when is empty`},
		{"condition syntax", doc(wiki + ruleWith("when: 'device.os == '")), `p.yaml:5:76: when: Syntax error`},
		{"condition field", doc(wiki + ruleWith("when: 'user.email == \"x\" || device.oss == \"linux\"'")), `p.yaml:5:85: when: there is no "device.oss" (did you mean "device.os"?)`},
		{"condition other field", doc(wiki + ruleWith("when: 'auth.quality == 1'")), `there is no "auth.quality"; there are auth.time, auth.acr, auth.amr, auth.login, auth.age`},
		{"condition section", doc(wiki + ruleWith("when: 'devcie.os == \"linux\"'")), `there is no "devcie.os" (did you mean "device.os"?)`},
		{"condition name", doc(wiki + ruleWith("when: 'noww > timestamp(\"2026-12-01T00:00:00Z\")'")), `there is no "noww" (did you mean "now"?)`},
		{"condition section alone", doc(wiki + ruleWith("when: 'device == 1'")), `"device" alone is nothing; there are device.os, `},
		{"condition has", doc(wiki + ruleWith("when: 'has(device.os)'")), `there is no has()`},
		{"condition function", doc(wiki + ruleWith("when: 'now.getHour() > 8'")), `"getHour" (did you mean "getHours"?)`},
		{"condition types", doc(wiki + ruleWith("when: 'device.os == 3'")), `found no matching overload for "_==_" applied to "(string, int)"`},
		{"condition zone", doc(wiki + ruleWith("when: 'now.getHours(\"Europe/Berln\") > 8'")), `p.yaml:5:77: when: there is no time zone "Europe/Berln"`},
		{"condition local zone", doc(wiki + ruleWith("when: 'now.getHours(\"Local\") > 8'")), `there is no time zone "Local"`},
		{"condition duration", doc(wiki + ruleWith("when: 'auth.age < duration(\"12\")'")), `invalid duration`},
		{"condition timestamp", doc(wiki + ruleWith("when: 'now < timestamp(\"tomorrow\")'")), `invalid timestamp`},
		{"condition pattern", doc(wiki + ruleWith("when: 'user.name.matches(\"(\")'")), `invalid matches argument`},
		{"condition cost", doc(wiki + ruleWith("when: 'user.groups.all(a, user.groups.exists(b, a == b))'")), `the condition can take too long`},
		{"condition length", doc(wiki + ruleWith("when: '"+strings.Repeat("true && ", 600)+"true'")), `at most 4096 are accepted`},
		{"condition depth", doc(wiki + ruleWith("when: '"+strings.Repeat("(", 300)+"true"+strings.Repeat(")", 300)+"'")), `when: `},
		{"condition line", doc(wiki + longRule + "    when: |\n      device.os == 'linux' &&\n        device.osx == 'b'\n"), `p.yaml:10:9: when: there is no "device.osx"`},
		{"condition folded", doc(wiki + longRule + "    when: >-\n      device.os == 'linux'\n      && device.osx == 'b'\n"), `p.yaml:10:10: when: there is no "device.osx"`},
		{"condition plain", doc(wiki + longRule + "    when: device.os == 'linux'\n      && device.osx == 'b'\n"), `p.yaml:9:10: when: there is no "device.osx"`},
		{"condition escaped", doc(wiki + longRule + "    when: \"device.os == \\\"linux\\\" && device.osx == 'b'\"\n"), `p.yaml:8:38: when: there is no "device.osx"`},
		{"condition quoted", doc(wiki + longRule + "    when: 'device.os == ''linux'' && device.osx == ''b'''\n"), `p.yaml:8:38: when: there is no "device.osx"`},
		{"reauth_within", doc(wiki + ruleWith("reauth_within: 15")), `reauth_within: "15" is no duration`},
		{"reauth_within negative", doc(wiki + ruleWith("reauth_within: -15m")), `reauth_within: "-15m" is no duration`},
		{"reauth_within on deny", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, deny: [wiki], reauth_within: 15m}\n"), `p.yaml:5:54: the key "reauth_within" is only for rules that allow`},
		{"strict on deny", doc(wiki + "rules:\n  - {name: r, subjects: {groups: [a]}, deny: [wiki], strict: true}\n"), `the key "strict" is only for rules that allow`},
		{"not_before", doc(wiki + ruleWith("not_before: 2026-12-01")), `"2026-12-01" is no time`},
		{"expires before it begins", doc(wiki + ruleWith("not_before: 2026-12-01T00:00:00Z, expires: 2026-12-01T01:00:00+01:00")), `expires before it begins`},
		{"strict", doc(wiki + ruleWith("strict: maybe")), `strict: write true or false`},

		{"test device", doc(wiki + "tests:\n  - {name: t, subject: {user: a@b.c, device: {oss: linux}}, deny: [wiki]}\n"), `unknown key "oss" in the device of a test (did you mean "os"?)`},
		{"test posture", doc(wiki + "tests:\n  - {name: t, subject: {user: a@b.c, device: {firewall: on}}, deny: [wiki]}\n"), `firewall: write true or false`},
		{"test login", doc(wiki + "tests:\n  - {name: t, subject: {user: a@b.c, auth: {login: phone}}, deny: [wiki]}\n"), `login "phone": login (in the browser) or device`},
		{"test client", doc(wiki + "tests:\n  - {name: t, subject: {user: a@b.c, client: here}, deny: [wiki]}\n"), `client: "here" is no address`},
		{"test without effect", doc(wiki + "tests:\n  - {name: t, subject: {user: a@b.c}}\n"), `needs "allow", "deny" or "step_up"`},
		{"test step_up unknown", doc(wiki + "tests:\n  - {name: t, subject: {user: a@b.c}, step_up: [wikki]}\n"), `there is no service "wikki"`},
		{"test unknown service", doc(wiki + "tests:\n  - {name: t, subject: {groups: [a]}, deny: [payrol]}\n"), `there is no service "payrol"`},
		{"test everyone", doc(wiki + "tests:\n  - {name: t, subject: {user: '*'}, deny: [wiki]}\n"), `about one person`},
		{"test time", doc(wiki + "tests:\n  - {name: t, at: tomorrow, subject: {user: a@b.c}, deny: [wiki]}\n"), `"tomorrow" is no time`},
		{"test without subject", doc(wiki + "tests:\n  - {name: t, deny: [wiki]}\n"), `a test needs a subject`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("p.yaml", []byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "p.yaml:") {
				t.Errorf("no place in %v", err)
			}
		})
	}
}

func TestParseReportsAllFaultsInOrder(t *testing.T) {
	in := doc("services:\n  Wiki: {adress: x}\nrules:\n  - {name: r, subjects: {groups: [a]}, allow: [wiki]}\ntests: {}\n")
	_, err := Parse("p.yaml", []byte(in))
	if err == nil {
		t.Fatal("no error")
	}
	var places []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		places = append(places, strings.Join(strings.SplitN(line, ":", 4)[1:3], ":"))
	}
	if diff := cmp.Diff([]string{"3:3", "3:3", "3:10", "5:48", "6:8"}, places); diff != "" {
		t.Errorf("places (-want +got):\n%s\n%v", diff, err)
	}
}

func TestParseBoundsItsReport(t *testing.T) {
	var b strings.Builder
	b.WriteString(doc("rules:\n"))
	for i := range 200 {
		fmt.Fprintf(&b, "  - {name: r%d, subjects: {groups: [a]}, allow: [nothing]}\n", i)
	}
	_, err := Parse("p.yaml", []byte(b.String()))
	if err == nil || strings.Count(err.Error(), "\n") != maxFaults || !strings.HasSuffix(err.Error(), "and 150 more") {
		t.Errorf("%v", err)
	}
	if _, err := Parse("p.yaml", make([]byte, MaxFileSize+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a file that is too large: %v", err)
	}
}

func TestParseCanonicalises(t *testing.T) {
	d, err := Parse("p.yaml", []byte(doc(`services:
  wiki:
    address: "WIKI.Internal.:8080"
    hostnames: [Wiki.Corp.Example., bücher.example, "ＷＩＫＩ.example"]
    tags: [b, a]
  v6: {address: "[2001:0db8::0001]:443"}
  lab: {network: 10.20.0.0/16, ports: [443, 22, 8000-8999], protocol: udp}
rules:
  - {name: r, subjects: {users: [Ada@Corp.Example, "corp:Ada@corp.example", "corp:sub:ABC"]}, allow: [wiki]}
`)))
	if err != nil {
		t.Fatal(err)
	}
	w := d.Services[0]
	if diff := cmp.Diff([]string{"wiki.corp.example", "xn--bcher-kva.example", "wiki.example"}, w.Hostnames); diff != "" {
		t.Errorf("host names (-want +got):\n%s", diff)
	}
	if w.Host != "wiki.internal" || w.HostPort != 8080 || w.Port != 8080 || w.Tags[0] != "a" {
		t.Errorf("wiki %+v", w)
	}
	if v6 := d.Services[1]; v6.Host != "2001:db8::1" || !v6.Addr.IsValid() {
		t.Errorf("v6 %+v", v6)
	}
	if lab := d.Services[2]; !lab.IsNetwork() || lab.Ports[0].First != 22 || lab.Kind != "udp" {
		t.Errorf("lab %+v", lab)
	}
	u := d.Rules[0].Users
	if u[0].Email != "ada@corp.example" || u[1].Provider != "corp" || u[2].Subject != "ABC" {
		t.Errorf("users %+v", u)
	}
}

func TestParseWarnsOfSharedAddresses(t *testing.T) {
	d, err := Parse("p.yaml", []byte(doc(`services:
  wiki: {address: "10.0.0.5:443"}
  payroll: {address: "10.0.0.5:443"}
  lab: {network: 10.20.0.0/16, ports: [1-100]}
  lab2: {network: 10.20.0.0/16, ports: [50]}
  all: {network: 0.0.0.0/0, ports: [80]}
`)))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Warnings) != 3 {
		t.Errorf("warnings %v", d.Warnings)
	}
}

func TestProvidersAreChecked(t *testing.T) {
	file := func(subjects string) string {
		return doc(wiki + "rules:\n  - {name: r, subjects: " + subjects + ", allow: [wiki]}\n")
	}
	two := []string{"corp", "partner"}
	tests := []struct {
		name, in  string
		providers []string
		want      string
	}{
		{"bare group with two", file("{groups: [engineering]}"), two, `p.yaml:5:35: group "engineering": with more than one provider write whose group it is, such as "corp/engineering"`},
		{"unknown group provider", file("{groups: [crop/engineering]}"), two, `there is no provider "crop" (did you mean "corp"?)`},
		{"bare user with two", file("{users: [a@b.c]}"), two, `such as "corp:a@b.c"`},
		{"unknown user provider", file("{users: ['patner:a@b.c']}"), two, `there is no provider "patner" (did you mean "partner"?)`},
		{"unknown user provider of one", file("{users: ['patner:a@b.c']}"), two[:1], `there is no provider "patner"`},
		{"everyone with two", file("{users: ['*']}"), two, ""},
		{"forms with two", file("{groups: [corp/engineering], users: ['corp:a@b.c', 'partner:sub:1', 'corp:*']}"), two, ""},
		{"not known", file("{groups: [x/y], users: ['any:a@b.c']}"), nil, ""},
		{"slash with one", file("{groups: [/eng/backend]}"), two[:1], ""},
		{"test of two providers", file("{users: ['*']}") + "tests:\n  - {name: t, subject: {groups: [corp/a, partner/b]}, allow: [wiki]}\n", two, `comes from one provider`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load("p.yaml", []byte(tt.in), Options{Providers: tt.providers})
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
		})
	}
}

func TestFailingTestsAreReadable(t *testing.T) {
	s, err := Load("p.yaml", []byte(doc(wiki+`rules:
  - {name: sales, subjects: {groups: [sales]}, allow: [wiki]}
tests:
  - {name: engineers read, subject: {groups: [engineering]}, allow: [wiki]}
  - {name: sales do not, subject: {groups: [sales]}, deny: ["tag:office"]}
`)), Options{})
	want := `p.yaml: 2 of the policy's own expectations fail
p.yaml:7:70: test "engineers read": wiki: want allow, got deny (no rule allows wiki to you; it is open to the group sales)
p.yaml:8:61: test "sales do not": wiki: want deny, got allow (rule "sales")`
	if err == nil || s == nil {
		t.Fatalf("set %v, error %v", s, err)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompileRefusesWhatWasNotParsed(t *testing.T) {
	for _, d := range []*Document{nil, {}} {
		if _, err := Compile(d, Options{}); err == nil {
			t.Error("compiled")
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add([]byte(doc(wiki + "rules:\n  - {name: r, subjects: {users: ['corp:sub:1'], groups: [a/b]}, allow: ['*']}\n")))
	f.Add([]byte("version: 1\nservices: {a: {network: '::/0', ports: [1-65535]}}\ntests: [{name: t, subject: {groups: unknown}, deny: ['[::1]:80/udp']}]\n"))
	f.Add([]byte("version: &a [*a]\n"))
	f.Add([]byte(veiled))
	f.Add([]byte(doc(wiki + ruleWith("when: 'device.os == \"linux\" && now.getHours(\"Europe/Berlin\") < 9', reauth_within: 15m, expires: 2027-01-01T00:00:00Z"))))
	f.Add([]byte(doc(wiki + longRule + "    when: >-\n      device.firewall\n      || user.groups.exists(g, g == 'a')\n    strict: true\ntests:\n  - {name: t, at: 2026-12-24T10:00:00Z, subject: {groups: [a], device: {firewall: unknown}, auth: {age: 5m, login: device, amr: [otp]}, client: '::1'}, step_up: [wiki]}\n")))
	f.Add([]byte("version: 1\nservices: {lab: {network: 10.0.0.0/8, ports: [22], zones: [a.lab.example], requestable: {max: 4h, approvers: {users: ['x:sub:1']}}}, w: {address: 'a.b:1', hostnames: ['*.w.example', w.example]}}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := Parse("p.yaml", in)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "p.yaml") {
				t.Errorf("an error without a place: %v", err)
			}
			return
		}
		s, err := Compile(d, Options{})
		if err != nil {
			t.Fatalf("a parsed document does not compile: %v", err)
		}
		s.RunTests()
		checkServices(t, s)
		for _, r := range d.Rules {
			if r.When != "" && (r.WhenPos.Line < r.Pos.Line || r.WhenPos.Column < 1) {
				t.Errorf("a condition of the rule at %v stands at %v", r.Pos, r.WhenPos)
			}
		}
	})
}

// checkServices holds what the tunnel will insist on.
func checkServices(t *testing.T, s *Set) {
	t.Helper()
	list := s.Services(NewSubject(person("ada@corp.example", "engineering"), Device{}), Request{})
	for _, svc := range list {
		if !svc.Allowed && svc.Reason == "" {
			t.Errorf("service %s is refused without a reason", svc.Name)
		}
	}
	if err := (&wireServices{Services: list}).Validate(); err != nil {
		t.Errorf("services that the tunnel refuses: %v", err)
	}
}
