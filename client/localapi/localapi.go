// Package localapi lets programs of the same user talk to a running client: its
// status, the services, streams through its session, and the request to stop.
//
// It is HTTP/1.1 on a Unix socket in the client's state folder. Who may connect
// is decided by the file system (folder 0700, socket 0600) and, where the system
// tells, by the peer's user id. A browser cannot reach a Unix socket, but a
// program that forwards ports might be tricked into it: requests with another
// Host, or with an Origin or Referer at all, are refused.
//
//	GET  /v1/status            the snapshot, one JSON object
//	GET  /v1/status?watch=1    a line of JSON at every change, until the client hangs up
//	GET  /v1/services          what the person may reach
//	POST /v1/ping              one round trip to the gateway
//	POST /v1/open              a stream (Upgrade: culvert-stream/1), see Stream
//	POST /v1/builtin           a stream to a service inside the gateway, likewise
//	POST /v1/reload            look at the stored login again
//	POST /v1/down              stop
//
// Errors are a JSON object, see failure. The package does not decide anything:
// a Backend, the client, does what is asked.
package localapi

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Errors that callers branch on.
var (
	// ErrNotRunning: nobody listens on the socket.
	ErrNotRunning = errors.New("no client runs")
	// ErrRunning: another process serves this socket already.
	ErrRunning = errors.New("another client runs already")
)

// Host is the name that every request must carry in its Host field.
const Host = "local.culvert"

// upgradeName is the protocol that a connection switches to for a stream.
const upgradeName = "culvert-stream/1"

// Backend is what the socket gives access to. Its methods are called at the
// same time from several goroutines.
type Backend interface {
	// Status returns the snapshot of now.
	Status() status.Status
	// Watch yields the snapshot of now and then one after each change, until ctx ends.
	Watch(ctx context.Context) iter.Seq[status.Status]
	// Services returns what the gateway announced last.
	Services() []wire.Service
	// Ping measures one round trip to the gateway.
	Ping(ctx context.Context) (time.Duration, error)
	// Open opens a stream. With wait it returns after the gateway's decision;
	// without, a refusal may also come from the stream's Read. ctx bounds the
	// opening only. For a udp target one Read and one Write is one datagram.
	Open(ctx context.Context, target wire.Target, wait bool) (relay.Conn, error)
	// OpenBuiltIn opens a stream to a service inside the gateway, which Open refuses.
	// It returns after the gateway's decision.
	OpenBuiltIn(ctx context.Context, name string) (relay.Conn, error)
	// Reload says that the stored login may have changed.
	Reload()
	// Stop asks the client to end. It does not wait for that.
	Stop()
}

// Service is wire.Service as JSON.
type Service struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Kind        wire.Kind      `json:"kind"`
	Label       string         `json:"label,omitempty"`
	Hostnames   []string       `json:"hostnames,omitempty"`
	Port        uint16         `json:"port,omitempty"`
	Networks    []netip.Prefix `json:"networks,omitempty"`
	Ports       []PortRange    `json:"ports,omitempty"`
	Tags        []string       `json:"tags,omitempty"`
	Allowed     bool           `json:"allowed"`
	Reason      string         `json:"reason,omitempty"` // why it is not allowed
	Zones       []string       `json:"zones,omitempty"`
	// Requestable is for how long the service may be asked for, in seconds; 0: it is not requestable.
	Requestable int64 `json:"requestable_seconds,omitempty"`
	// MaxAge is how old the login may be for an allowed service to open without a fresh one, in milliseconds; 0: any will do.
	MaxAge int64 `json:"login_max_age_ms,omitempty"`
}

// PortRange is First to Last, both included.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// ServicesFromWire returns the JSON form of what a gateway announced; never nil.
func ServicesFromWire(list []wire.Service) []Service {
	services := make([]Service, 0, len(list))
	for _, s := range list {
		ports := make([]PortRange, 0, len(s.Ports))
		for _, p := range s.Ports {
			ports = append(ports, PortRange(p))
		}
		services = append(services, Service{s.Name, s.Description, s.Kind, s.Label, s.Hostnames, s.Port,
			s.Networks, ports, s.Tags, s.Allowed, s.Reason, s.Zones, int64(s.Requestable / time.Second), s.MaxAge.Milliseconds()})
	}
	return services
}

// wireService is the way back.
func (s Service) wireService() wire.Service {
	ports := make([]wire.PortRange, 0, len(s.Ports))
	for _, p := range s.Ports {
		ports = append(ports, wire.PortRange(p))
	}
	return wire.Service{Name: s.Name, Description: s.Description, Kind: s.Kind, Label: s.Label, Hostnames: s.Hostnames,
		Port: s.Port, Networks: s.Networks, Ports: ports, Tags: s.Tags, Allowed: s.Allowed, Reason: s.Reason,
		Zones: s.Zones, Requestable: time.Duration(s.Requestable) * time.Second, MaxAge: time.Duration(s.MaxAge) * time.Millisecond}
}

// openMessage is the body of POST /v1/open.
type openMessage struct {
	Kind    wire.Kind `json:"kind"`
	Service string    `json:"service,omitempty"`
	Host    string    `json:"host,omitempty"`
	Port    uint16    `json:"port,omitempty"`
	Wait    bool      `json:"wait,omitempty"`
}

func (m openMessage) target() wire.Target {
	return wire.Target{Kind: m.Kind, Service: m.Service, Host: m.Host, Port: m.Port}
}

// builtInMessage is the body of POST /v1/builtin.
type builtInMessage struct {
	Service string `json:"service"`
}

type servicesMessage struct {
	Services []Service `json:"services"`
}

type pingMessage struct {
	RTT time.Duration `json:"rtt_ns"`
}
