package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

const vectorFile = "testdata/vectors.json"

// vector is one line of the golden file: a message, and the frame that it must be.
type vector struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Frame string `json:"frame"`
}

var at = time.Date(2026, 12, 24, 10, 0, 0, 123e6, time.UTC)

var samples = []struct {
	name string
	m    Message
}{
	{"open request, service", &OpenRequest{Target: ServiceTarget(KindTCP, "wiki")}},
	{"open request, host, waits", &OpenRequest{Target: HostTarget(KindTCP, "db.lab.corp.example", 5432), TraceID: "01HZX", Wait: true}},
	{"open request, udp, IPv6", &OpenRequest{Target: HostTarget(KindUDP, "2001:db8::53", 53), Wait: true}},
	{"open reply, ok", &OpenReply{Code: CodeOK, Service: "wiki"}},
	{"open reply, refusal", &OpenReply{Code: CodeDenied, Reason: "no rule allows payroll for the group sales",
		Remedy: "ask it-help", Reference: "7F3K-2M9Q", Service: "payroll"}},
	{"hello", &Hello{Versions: []int{1}, Client: "culvert 0.1.0", OS: "linux", Arch: "amd64"}},
	{"hello, second lane, posture", &Hello{Versions: []int{1, 2}, Lane: 1, Session: "s-1", Posture: map[string]string{"disk.encrypted": "true"}}},
	{"hello, can step up", &Hello{Versions: []int{1}, StepUp: true}},
	{"welcome", &Welcome{Version: 1, Session: "s-1", Gateway: "edge-1", ServerTime: at, NotAfter: at.Add(time.Hour), Deadline: at.Add(12 * time.Hour),
		Limits: Limits{MaxStreams: 1024, MaxUndecided: 64, MaxWindow: 8 << 20}, Roots: [][]byte{{0x30, 0x03, 0x02, 0x01, 0x01}}}},
	{"services", &Services{PolicyVersion: "v7", Services: []Service{
		{Name: "wiki", Description: "Team wiki", Kind: KindTCP, Label: "http", Hostnames: []string{"wiki.corp.example"}, Port: 80, Tags: []string{"office"}, Allowed: true},
		{Name: "lab", Kind: KindTCP, Networks: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("2001:db8::/32")},
			Ports: []PortRange{{22, 22}, {8000, 8999}}, Reason: "ask it-help"},
	}}},
	{"services, a zone, requestable", &Services{Services: []Service{
		{Name: "lab", Kind: KindTCP, Networks: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}, Zones: []string{"lab.corp.example"},
			Reason: "no rule allows it", Requestable: 4 * time.Hour},
	}}},
	{"services, a fresh login", &Services{Services: []Service{{Name: "db", Kind: KindTCP, Port: 5432, Allowed: true, MaxAge: 15 * time.Minute}}}},
	{"services, empty, more", &Services{More: true}},
	{"posture", &Posture{Values: map[string]string{"os.version": "24.04", "disk.encrypted": "true"}}},
	{"renewed, from the client", &Renewed{Chain: [][]byte{{0x30, 0x00}, {0x30, 0x00}}}},
	{"renewed, from the gateway", &Renewed{NotAfter: at.Add(2 * time.Hour), Deadline: at.Add(12 * time.Hour)}},
	{"renewed, refused", &Renewed{Refusal: "another key"}},
	{"draining", &Draining{Reason: "upgrade", Deadline: at}},
	{"terminated", &Termination{Code: TerminateLocked, Reason: "locked by an administrator", Reference: "7F3K-2M9Q"}},
	{"abort", &Abort{StreamID: 7, Code: AbortReset, Read: true, Write: true}},
	{"abort, one direction, reason", &Abort{StreamID: 0xfffffffd, Code: AbortRevoked, Reason: "policy v8", Read: true}},
	{"ping", &Ping{Nonce: 1}},
	{"pong", &Pong{Nonce: 1, Time: at.UnixMilli()}},
	{"step-up, asked", &StepUp{Service: "db", MaxAge: 15 * time.Minute, Reason: "rule dba asks for a login in the last 15 minutes", Until: at}},
	{"step-up, by class", &StepUp{ACR: []string{"urn:corp:mfa", "phr"}}},
	{"step-up, refused", &StepUp{Refusal: "the login was cancelled"}},
}

func TestGoldenVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	data, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != len(samples) {
		t.Fatalf("%d vectors for %d samples", len(vectors), len(samples))
	}
	for i, v := range vectors {
		t.Run(v.Name, func(t *testing.T) { checkVector(t, v, samples[i].m) })
	}
}

func checkVector(t *testing.T, v vector, m Message) {
	frame, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(frame); got != v.Frame {
		t.Errorf("marshal:\n got %s\nwant %s", got, v.Frame)
	}
	want, _ := hex.DecodeString(v.Frame)
	back, err := ParseFrame(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, back, compareOptions...); diff != "" {
		t.Errorf("parse: %s", diff)
	}
}

var compareOptions = cmp.Options{
	cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}),
}

func writeVectors(t *testing.T) {
	var vectors []vector
	for _, s := range samples {
		frame, err := Marshal(s.m)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		vectors = append(vectors, vector{s.name, s.m.Type().String(), hex.EncodeToString(frame)})
	}
	data, _ := json.MarshalIndent(vectors, "", "  ")
	if err := os.WriteFile(vectorFile, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every message type has a vector, so that docs/protocol.md can point to it.
func TestEveryMessageHasAVector(t *testing.T) {
	seen := map[Type]bool{}
	for _, s := range samples {
		seen[s.m.Type()] = true
	}
	for typ := range typeNames {
		if !typ.IsRecord() && !seen[typ] {
			t.Errorf("no vector for %s", typ)
		}
	}
}

func TestHeader(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bytes []byte
		want  Header
		ok    bool
	}{
		{"data", []byte{1, 0, 0, 5}, Header{TypeData, 5}, true},
		{"full record", []byte{1, 0, 0xff, 0xf0}, Header{TypeData, MaxPayload}, true},
		{"too long", []byte{1, 0, 0xff, 0xf1}, Header{}, false},
		{"far too long", []byte{1, 0xff, 0xff, 0xff}, Header{}, false},
		{"empty data", []byte{1, 0, 0, 0}, Header{}, false},
		{"empty datagram", []byte{2, 0, 0, 0}, Header{TypeDatagram, 0}, true},
		{"end", []byte{3, 0, 0, 0}, Header{TypeEnd, 0}, true},
		{"end with payload", []byte{3, 0, 0, 1}, Header{}, false},
		{"unknown type", []byte{0x7f, 0, 0, 1}, Header{}, false},
		{"type 0", []byte{0, 0, 0, 1}, Header{}, false},
		{"short", []byte{1, 0, 0}, Header{}, false},
	} {
		got, err := ParseHeader(tc.bytes)
		if (err == nil) != tc.ok || (tc.ok && got != tc.want) {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v is not ErrMalformed", tc.name, err)
		}
		if tc.ok {
			var back [HeaderSize]byte
			PutHeader(back[:], got)
			if !bytes.Equal(back[:], tc.bytes) {
				t.Errorf("%s: put %x", tc.name, back)
			}
		}
	}
}

// CBOR bodies that a strict decoder refuses, each as the body of a ping.
func TestStrictCBOR(t *testing.T) {
	for name, body := range map[string]string{
		"empty":                    "",
		"not a map":                "01",
		"duplicate key":            "a201010102",
		"indefinite map":           "bf0101ff",
		"tag":                      "c1a10101",
		"trailing bytes":           "a1010100",
		"text for a number":        "a1016131",
		"negative for an unsigned": "a10120",
		"float":                    "a101fb3ff0000000000000",
		"truncated":                "a101",
		"huge length":              "bb7fffffffffffffff",
		"deep nesting":             "a10a" + strings.Repeat("81", 64) + "00",
	} {
		raw, err := hex.DecodeString(body)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := Parse(TypePing, raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	// Unknown keys are how the version grows.
	if _, err := Parse(TypePing, []byte{0xa2, 0x01, 0x01, 0x18, 0x63, 0x01}); err != nil {
		t.Errorf("unknown key: %v", err)
	}
	if _, err := Parse(TypeData, []byte{0xa0}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a record as a message: %v", err)
	}
}

func TestValidate(t *testing.T) {
	long := strings.Repeat("x", 300)
	prefix := netip.MustParsePrefix
	for name, m := range map[string]Message{
		"no kind":                &OpenRequest{Target: Target{Service: "a"}},
		"unknown kind":           &OpenRequest{Target: Target{Kind: "sctp", Service: "a"}},
		"no target":              &OpenRequest{Target: Target{Kind: KindTCP}},
		"service and host":       &OpenRequest{Target: Target{Kind: KindTCP, Service: "a", Host: "b", Port: 1}},
		"host without port":      &OpenRequest{Target: Target{Kind: KindTCP, Host: "b"}},
		"port without host":      &OpenRequest{Target: Target{Kind: KindTCP, Port: 1}},
		"NUL in host":            &OpenRequest{Target: HostTarget(KindTCP, "a\x00b", 1)},
		"space in host":          &OpenRequest{Target: HostTarget(KindTCP, "a b", 1)},
		"newline in service":     &OpenRequest{Target: ServiceTarget(KindTCP, "a\nb")},
		"bidi in service":        &OpenRequest{Target: ServiceTarget(KindTCP, "a\u202eb")},
		"long host":              &OpenRequest{Target: HostTarget(KindTCP, long, 1)},
		"long trace":             &OpenRequest{Target: ServiceTarget(KindTCP, "a"), TraceID: long},
		"not UTF-8":              &OpenRequest{Target: ServiceTarget(KindTCP, "a\xff")},
		"reply without code":     &OpenReply{},
		"hello without versions": &Hello{},
		"hello, third lane":      &Hello{Versions: []int{1}, Lane: 2},
		"welcome, version 0":     &Welcome{},
		"welcome, empty root":    &Welcome{Version: 1, Roots: [][]byte{{}}},
		"welcome, old time":      &Welcome{Version: 1, ServerTime: time.Unix(-5, 0)},
		"service, no kind":       &Services{Services: []Service{{Name: "a"}}},
		"service, no name":       &Services{Services: []Service{{Kind: KindTCP}}},
		"network, host bits":     &Services{Services: []Service{{Name: "a", Kind: KindTCP, Networks: []netip.Prefix{prefix("10.0.0.1/8")}}}},
		"network, mapped":        &Services{Services: []Service{{Name: "a", Kind: KindTCP, Networks: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}}}},
		"ports backwards":        &Services{Services: []Service{{Name: "a", Kind: KindTCP, Ports: []PortRange{{2, 1}}}}},
		"terminated, no code":    &Termination{},
		"abort, control stream":  &Abort{Code: AbortReset, Read: true},
		"abort, no direction":    &Abort{StreamID: 1, Code: AbortReset},
		"posture, odd key":       &Posture{Values: map[string]string{"a b": "c"}},
		"zone, odd":              &Services{Services: []Service{{Name: "a", Kind: KindTCP, Zones: []string{"a b"}}}},
		"requestable, negative":  &Services{Services: []Service{{Name: "a", Kind: KindTCP, Requestable: -time.Hour}}},
		"max age, negative":      &Services{Services: []Service{{Name: "a", Kind: KindTCP, MaxAge: -time.Hour}}},
		"step-up for nothing":    &StepUp{Service: "a"},
		"step-up, both":          &StepUp{MaxAge: time.Minute, Refusal: "no"},
		"step-up, negative":      &StepUp{MaxAge: -time.Minute},
		"step-up, too long":      &StepUp{MaxAge: 400 * 24 * time.Hour},
		"step-up, odd class":     &StepUp{ACR: []string{"a b"}},
		"step-up, many classes":  &StepUp{ACR: make([]string, MaxACR+1)},
	} {
		if frame, err := Marshal(m); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %x, %v", name, frame, err)
		}
	}
}

// TestThreatTextIsCleaned: log and terminal injection (Go CVE-2025-58189). What is sent is clean, and what comes unclean is refused.
func TestThreatTextIsCleaned(t *testing.T) {
	frame, err := Marshal(&OpenReply{Code: CodeDenied, Reason: "bad\r\n\x1b[31mred\u202e \xff" + strings.Repeat("é", MaxText)})
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseFrame(frame)
	if err != nil {
		t.Fatal(err)
	}
	reason := m.(*OpenReply).Reason
	if strings.ContainsFunc(reason, unprintable) || len(reason) > MaxText || !strings.HasPrefix(reason, "bad [31mred \uFFFDé") {
		t.Errorf("%q", reason)
	}
	body, err := encoder.Marshal(&OpenReply{Code: CodeDenied, Reason: "a\x1b[2Jb"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(TypeOpenReply, body); !errors.Is(err, ErrMalformed) {
		t.Errorf("unclean text was taken: %v", err)
	}
}

func TestRefusalRoundTrip(t *testing.T) {
	want := &Refusal{Code: CodeNoSuchService, Reason: "r", Remedy: "m", Reference: "x", Service: "s"}
	if diff := cmp.Diff(want, want.Reply().Refusal()); diff != "" {
		t.Error(diff)
	}
	for _, code := range []Code{"", CodeOK} {
		if got := (&Refusal{Code: code}).Reply().Code; got != CodeDenied {
			t.Errorf("code %q became %q", code, got)
		}
	}
	if (&OpenReply{Code: CodeOK}).Refusal() != nil {
		t.Error("ok is a refusal")
	}
}

func TestSelectVersionNamesBothEnds(t *testing.T) {
	if v, err := (&Hello{Versions: []int{3, 1, 2}}).SelectVersion(1, 2); v != 2 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	_, err := (&Hello{Versions: []int{7, 8}}).SelectVersion(1)
	var why *Termination
	if !errors.As(err, &why) || why.Code != TerminateVersion || !strings.Contains(why.Reason, "version 1, the client speaks 7, 8") {
		t.Errorf("%v", err)
	}
}

func TestServicesSplit(t *testing.T) {
	var list Services
	list.PolicyVersion = "v1"
	for range 3000 {
		list.Services = append(list.Services, Service{Name: strings.Repeat("n", 60), Kind: KindTCP, Description: strings.Repeat("d", 100)})
	}
	parts := list.Split()
	n := 0
	for i, p := range parts {
		if _, err := Marshal(p); err != nil {
			t.Fatal(err)
		}
		if p.More != (i < len(parts)-1) || p.PolicyVersion != "v1" {
			t.Errorf("part %d: %v %q", i, p.More, p.PolicyVersion)
		}
		n += len(p.Services)
	}
	if n != 3000 || len(parts) < 2 {
		t.Errorf("%d services in %d parts", n, len(parts))
	}
	if parts := (&Services{}).Split(); len(parts) != 1 || parts[0].More {
		t.Errorf("%+v", parts)
	}
}

func TestTarget(t *testing.T) {
	for _, tc := range []struct {
		target Target
		text   string
		addr   string
	}{
		{ServiceTarget(KindTCP, "wiki"), "wiki", ""},
		{ServiceTarget(KindUDP, "dns"), "dns/udp", ""},
		{HostTarget(KindTCP, "::ffff:10.0.0.1", 22), "[::ffff:10.0.0.1]:22", "10.0.0.1:22"},
		{HostTarget(KindTCP, "db.example", 22), "db.example:22", ""},
		{HostTarget(KindTCP, "fe80::1%eth0", 22), "[fe80::1%eth0]:22", ""},
	} {
		if got := tc.target.String(); got != tc.text {
			t.Errorf("%q, want %q", got, tc.text)
		}
		addr, ok := tc.target.Addr()
		if ok != (tc.addr != "") || (ok && addr.String() != tc.addr) {
			t.Errorf("%s: %v %v", tc.text, addr, ok)
		}
	}
}

// FuzzParse: what is accepted can be sent again, and means the same then.
func FuzzParse(f *testing.F) {
	for _, s := range samples {
		frame, err := Marshal(s.m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Add([]byte{byte(TypePing), 0, 0, 6, 0xa2, 0x01, 0x01, 0x18, 0x63, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseFrame(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		frame, err := Marshal(m)
		if err != nil {
			t.Fatalf("parsed %+v, and cannot send it: %v", m, err)
		}
		again, err := ParseFrame(frame)
		if err != nil {
			t.Fatalf("parse again: %v", err)
		}
		if diff := cmp.Diff(m, again, compareOptions...); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{1, 0, 0, 5})
	f.Add([]byte{3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHeader(data)
		if err != nil {
			return
		}
		var back [HeaderSize]byte
		PutHeader(back[:], h)
		if !bytes.Equal(back[:], data[:HeaderSize]) {
			t.Fatalf("%x became %x", data[:HeaderSize], back)
		}
	})
}
