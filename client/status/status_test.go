package status

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func full() Status {
	return Status{
		State: Connected, Since: noon, Profile: "default",
		Gateway:  Gateway{URL: "https://gw.example", Address: "gw.example:443", ID: "gw-1", RTT: 12345 * time.Microsecond, TLS: "TLS 1.3"},
		User:     User{Name: "Ada", Email: "ada@corp.example", Groups: []string{"engineering", "it"}},
		Session:  Session{ID: "s", Serial: "0a", NotAfter: noon.Add(40 * time.Minute), Deadline: noon.Add(9*time.Hour + 5*time.Minute)},
		Device:   Device{"os": "linux", "os_version": "12", "arch": "amd64", "disk_encrypted": "true", "hardware_key": "false"},
		Traffic:  Traffic{Streams: 2, Draining: 1, Opened: 7, Sent: 1536, Received: 3 << 20},
		Warnings: []Warning{{Code: WarnClockSkew, Text: "your clock is 9 min slow", Remedy: "set it"}},
		Offers:   []Offer{{Kind: "socks5", Address: "127.0.0.1:1080"}, {Kind: "forward", Address: "127.0.0.1:5432", Service: "db"}},
	}
}

func TestHeadlines(t *testing.T) {
	for want, s := range map[string]Status{
		"connected to gw.example:443":                                 {State: Connected},
		"connecting to gw.example:443 (no answer)":                    {State: Connecting, Reason: "no answer"},
		"expired: run `culvert login` (the session ended at 18:00)":   {State: Expired, Reason: "the session ended at 18:00"},
		"locked: left the company (reference r-7)":                    {State: Locked, Reason: "left the company", Reference: "r-7"},
		"terminated: the gateway gave no reason":                      {State: Terminated},
		"not logged in: run `culvert login URL`":                      {State: NotLoggedIn},
		"not running: run `culvert up`":                               {State: Stopped},
		"reconnecting since " + clock(noon) + " (connection refused)": {State: Reconnecting, Since: noon, Reason: "connection refused"},
	} {
		s.Gateway.Address = "gw.example:443"
		if got := s.Headline(); got != want {
			t.Errorf("headline %q, want %q", got, want)
		}
	}
	if got := (Status{State: NotLoggedIn, Gateway: Gateway{URL: "https://gw.example"}}).Headline(); got != "not logged in: run `culvert login`" {
		t.Errorf("headline with a known gateway: %q", got)
	}
}

func TestWrite(t *testing.T) {
	var b strings.Builder
	if err := full().Write(&b, noon); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"connected to gw.example:443\n", "round trip   12.35ms\n", "user         Ada <ada@corp.example>\n", "groups       engineering, it\n",
		"(40 min)\n", "(9 h 5 min)\n",
		"device       linux 12, amd64, disk encrypted, firewall unknown, screen lock unknown, key not in hardware\n", "2 open streams, 1.5 KiB sent, 3.0 MiB received (1 on a gateway that stops)\n",
		"forward      127.0.0.1:5432 → db\n", "warning: your clock is 9 min slow\n  hint: set it\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestJSONRoundTrip(t *testing.T) {
	want := full()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Status
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Only Connected may say that it works; a state that nobody can change by
// waiting must say so.
func TestWorksAndFinal(t *testing.T) {
	for state, want := range map[State][2]bool{
		Connected: {true, false}, Connecting: {false, false}, Reconnecting: {false, false},
		Expired: {false, true}, Locked: {false, true}, Terminated: {false, true}, NotLoggedIn: {false, true}, Stopped: {false, true},
	} {
		s := Status{State: state}
		if got := [2]bool{s.Works(), s.Final()}; got != want {
			t.Errorf("%s: works, final = %v, want %v", state, got, want)
		}
	}
}

func TestSpanAndBytes(t *testing.T) {
	for d, want := range map[time.Duration]string{
		45 * time.Second: "45 s", -9 * time.Minute: "9 min", 2 * time.Hour: "2 h", 125 * time.Minute: "2 h 5 min", 73 * time.Hour: "3 days",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%s) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 30: "5.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}
