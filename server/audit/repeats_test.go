package audit

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

func denial(target string) Record {
	return Record{Event: EventStreamDenied, Actor: ada(), Kind: "tcp", Target: target, Service: target, Code: "denied", Condition: "no_rule_allows", Reason: "no rule allows it"}
}

func TestRepetitionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, Config{Dir: dir})
		first := mustAppend(t, l, denial("payroll"))
		if first.Reference == "" || first.Seq == 0 {
			t.Fatalf("%+v", first)
		}
		for range 998 {
			time.Sleep(10 * time.Millisecond)
			if again := mustAppend(t, l, denial("payroll")); again.Reference != first.Reference || again.Seq != 0 {
				t.Fatalf("%+v", again)
			}
		}
		if other := mustAppend(t, l, denial("wiki")); other.Reference == first.Reference || other.Seq == 0 {
			t.Errorf("another target: %+v", other)
		}
		time.Sleep(time.Minute)
		mustAppend(t, l, denial("payroll")) // still the same
		time.Sleep(2 * time.Minute)
		if n := l.Status().Counted; n != 0 {
			t.Errorf("%d are counted after quiet minutes", n)
		}
		late := mustAppend(t, l, denial("payroll")) // a new one
		if late.Reference == first.Reference {
			t.Error("a refusal after quiet minutes is not told apart")
		}
		mustAppend(t, l, denial("payroll"))
		l.Close()
		list := only(readAll(t, dir), EventStreamDenied)
		var counts []uint64
		for _, r := range list {
			if r.Repeated != nil {
				counts = append(counts, r.Repeated.Count)
				if r.Repeated.Last.Before(r.Repeated.First) || r.Target != "payroll" {
					t.Errorf("%+v", r)
				}
			}
		}
		if fmt.Sprint(counts) != "[998 1 1]" || len(list) != 6 {
			t.Errorf("counts %v in %d records", counts, len(list))
		}
	})
}

// Class: stream flood. One person, many targets: a bounded number of records, and every refusal is counted.
func TestThreatFloodOfDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, Config{Dir: dir, fs: noSync{}})
		for i := range 20_000 {
			if r := mustAppend(t, l, denial(fmt.Sprintf("host-%d", i))); r.Reference == "" {
				t.Fatal("no reference")
			}
		}
		for i := range 20_000 { // many persons
			r := denial("payroll")
			r.Actor.User = auth.UserID(fmt.Sprint(i))
			mustAppend(t, l, r)
		}
		for i := range 20_000 { // many strangers
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 1)
			mustAppend(t, l, Record{Event: EventEnrollRefused, Actor: Stranger(at), Code: "denied"})
		}
		if n := l.Status().Counted; n > maxRepeats+2 {
			t.Errorf("%d entries", n)
		}
		l.Close()
		list := readAll(t, dir)
		var told uint64
		for _, r := range list {
			switch {
			case r.Repeated != nil:
				told += r.Repeated.Count
			case r.Event == EventStreamDenied || r.Event == EventEnrollRefused:
				told++
			}
		}
		if told != 60_000 || len(list) > 2*maxRepeats {
			t.Errorf("%d of 60000 refusals are told, in %d records", told, len(list))
		}
	})
}

// Strangers have many addresses. They must neither fill the disk with their refusals nor hide those of people among them.
func TestThreatFloodOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, Config{Dir: dir, fs: noSync{}})
		for i := range 20_000 {
			at := netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 6: byte(i >> 8), 7: byte(i)}), 1)
			mustAppend(t, l, Record{Event: EventEnrollRefused, Actor: Stranger(at), Condition: "login/csr_invalid"})
			if i == 10_000 {
				mustAppend(t, l, denial("payroll"))
			}
		}
		l.Close()
		list := readAll(t, dir)
		if n := len(only(list, EventEnrollRefused)); n > 2*maxStrangers+2 {
			t.Errorf("%d records of strangers", n)
		}
		for _, r := range list {
			if r.Repeated != nil && r.Repeated.Count > 10_000 && r.Actor != nil {
				t.Errorf("all of them are told as those of %+v", r.Actor)
			}
		}
		if found := only(list, EventStreamDenied); len(found) != 1 || found[0].Target != "payroll" {
			t.Errorf("a person's denial among them: %+v", found)
		}
	})
}

// noSync leaves the disk out where only counting matters.
type noSync struct{ osFileSystem }

type unsynced struct{ file }

func (unsynced) Sync() error { return nil }

func (fs noSync) create(path string) (file, error) {
	f, err := fs.osFileSystem.create(path)
	return unsynced{f}, err
}

func TestStrangersAreToldApartByNetwork(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir()})
	ref := func(remote string) string {
		return mustAppend(t, l, Record{Event: EventEnrollRefused, Actor: Stranger(netip.MustParseAddrPort(remote))}).Reference
	}
	if ref("192.0.2.1:1") != ref("192.0.2.1:2") || ref("192.0.2.1:1") == ref("192.0.2.2:1") {
		t.Error("IPv4")
	}
	if ref("[2001:db8::1]:1") != ref("[2001:db8::ffff]:2") || ref("[2001:db8::1]:1") == ref("[2001:db8:0:1::1]:1") {
		t.Error("IPv6")
	}
	given := mustAppend(t, l, Record{Event: EventSessionRefused, Reference: "abcd-efgh"})
	if given.Reference != "abcd-efgh" {
		t.Errorf("a given reference becomes %q", given.Reference)
	}
}
