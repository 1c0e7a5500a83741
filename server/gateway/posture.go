package gateway

import (
	"maps"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// facts are what a client says of its device. They never change.
type facts struct {
	values map[string]string
	device policy.Device
}

// postureKeys are what policy.DeviceFromPosture reads; whatever else a client says is not kept.
var postureKeys = [...]string{
	"os", "os_version", "arch", "client_version", "disk_encrypted", "firewall", "screen_lock", "hardware_key",
}

// factsOf lays what a client says in its posture over what Hello says anyway.
func factsOf(hello *wire.Hello, posture map[string]string) *facts {
	said := map[string]string{"os": hello.OS, "arch": hello.Arch, "client_version": hello.Client}
	maps.Copy(said, posture)
	values := make(map[string]string, len(postureKeys))
	for _, k := range postureKeys {
		if v := said[k]; v != "" {
			values[k] = v
		}
	}
	return &facts{values: values, device: policy.DeviceFromPosture(values)}
}

// How often a posture is taken: each one costs a record and a decision for every open stream, and an honest client sends one when
// something changed. Of those that come faster, the last one is taken a second later.
const (
	postureRate  = rate.Limit(1) // a second
	postureBurst = 8
)

// postureTold is called on the connection's reading goroutine.
func (l *link) postureTold(values map[string]string) {
	l.news.Store(&values)
	select {
	case l.postures <- struct{}{}:
	default:
	}
}

// takePosture has the streams decided again for what the client says of its device now. It returns when to look again; nil: not before
// there is news.
func (l *link) takePosture() (again <-chan time.Time) {
	if !l.postureLimit.Allow() {
		return time.After(time.Second)
	}
	told := l.news.Swap(nil)
	if told == nil {
		return nil
	}
	next := factsOf(&l.hello, *told)
	if maps.Equal(next.values, l.facts.Load().values) {
		return nil
	}
	l.facts.Store(next)
	l.auditPosture()
	n := l.session.Redecide()
	l.log.Info("posture changed", "streams_cut", n)
	l.announce()
	return nil
}
