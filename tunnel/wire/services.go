package wire

import (
	"net/netip"
	"time"
)

// Services is what this identity may see: sent after Welcome and again whenever it changes. A long
// list comes in parts: every part but the last has More, and the list counts when the last is there.
type Services struct {
	Services      []Service `cbor:"1,keyasint,omitempty"`
	PolicyVersion string    `cbor:"2,keyasint,omitempty"`
	More          bool      `cbor:"3,keyasint,omitempty"`
}

// Service is one service as the desktop sees it. What the gateway dials is not part of it.
type Service struct {
	Name        string `cbor:"1,keyasint"`
	Description string `cbor:"2,keyasint,omitempty"`
	Kind        Kind   `cbor:"3,keyasint"`
	Label       string `cbor:"4,keyasint,omitempty"` // a protocol label such as "http", for user interfaces
	// Hostnames and Port are what the desktop calls the service.
	Hostnames []string `cbor:"5,keyasint,omitempty"`
	Port      uint16   `cbor:"6,keyasint,omitempty"`
	// Networks and Ports are the addresses of a network service, in its own address family,
	// masked. On the wire a network is 4 or 16 address bytes and one byte for its length.
	Networks []netip.Prefix `cbor:"7,keyasint,omitempty"`
	Ports    []PortRange    `cbor:"8,keyasint,omitempty"`
	Tags     []string       `cbor:"9,keyasint,omitempty"`
	Allowed  bool           `cbor:"10,keyasint,omitempty"`
	Reason   string         `cbor:"11,keyasint,omitempty"` // why it is not allowed
	// Zones are domains whose names the gateway resolves; the addresses lie in Networks.
	Zones []string `cbor:"12,keyasint,omitempty"`
	// Requestable is for how long the service may be asked for, when it is not allowed; 0: it is not
	// requestable. On the wire it is in milliseconds.
	Requestable time.Duration `cbor:"13,keyasint,omitempty"`
	// MaxAge is how old the login may be for a stream of this allowed service to open without a step-up;
	// 0: any will do. On the wire it is in milliseconds.
	MaxAge time.Duration `cbor:"14,keyasint,omitempty"`
}

// plainService is a Service without methods, so that encoding does not call itself.
type plainService Service

// MarshalCBOR implements cbor.Marshaler.
func (s Service) MarshalCBOR() ([]byte, error) {
	s.Requestable /= time.Millisecond
	s.MaxAge /= time.Millisecond
	return encoder.Marshal(plainService(s))
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (s *Service) UnmarshalCBOR(data []byte) error {
	var p plainService
	if err := decoder.Unmarshal(data, &p); err != nil {
		return err
	}
	var requestable, age error
	p.Requestable, requestable = duration("requestable time", int64(p.Requestable))
	p.MaxAge, age = duration("service's max age", int64(p.MaxAge))
	*s = Service(p)
	return firstError(requestable, age)
}

// PortRange is First to Last, both included.
type PortRange struct {
	First uint16 `cbor:"1,keyasint"`
	Last  uint16 `cbor:"2,keyasint"`
}

// Contains reports whether port lies in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Type implements Message.
func (*Services) Type() Type { return TypeServices }

// Validate implements Message.
func (m *Services) Validate() error {
	if len(m.Services) > MaxServices {
		return malformed("%d services", len(m.Services))
	}
	for i := range m.Services {
		if err := m.Services[i].validate(); err != nil {
			return err
		}
	}
	return checkOptionalToken("policy version", m.PolicyVersion, MaxName)
}

func (m *Services) tidy() {
	for i := range m.Services {
		s := &m.Services[i]
		s.Description, s.Reason = CleanText(s.Description), CleanText(s.Reason)
		s.Requestable = s.Requestable.Truncate(time.Millisecond)
		s.MaxAge = s.MaxAge.Truncate(time.Millisecond)
	}
}

func (s *Service) validate() error {
	if s.Kind != KindTCP && s.Kind != KindUDP {
		return malformed("service %q: unknown kind %q", s.Name, s.Kind)
	}
	if max(len(s.Hostnames), len(s.Networks), len(s.Ports), len(s.Tags), len(s.Zones)) > MaxList {
		return malformed("service %q: a list has more than %d entries", s.Name, MaxList)
	}
	return firstError(
		checkToken("service name", s.Name, MaxName),
		checkText("description", s.Description),
		checkOptionalToken("label", s.Label, MaxName),
		checkText("reason", s.Reason),
		checkTokens("host name", s.Hostnames, MaxHost),
		checkTokens("tag", s.Tags, MaxName),
		checkTokens("zone", s.Zones, MaxHost),
		checkDuration("requestable time", s.Requestable),
		checkDuration("service's max age", s.MaxAge),
		checkNetworks(s.Networks),
		checkPorts(s.Ports),
	)
}

func checkTokens(what string, list []string, limit int) error {
	for _, s := range list {
		if err := checkToken(what, s, limit); err != nil {
			return err
		}
	}
	return nil
}

// checkNetworks insists on one spelling of each network.
func checkNetworks(list []netip.Prefix) error {
	for _, p := range list {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			return malformed("network %s", p)
		}
	}
	return nil
}

func checkPorts(list []PortRange) error {
	for _, r := range list {
		if r.First == 0 || r.First > r.Last {
			return malformed("port range %d-%d", r.First, r.Last)
		}
	}
	return nil
}

// Split returns the list as messages that each fit into one frame, in order, More set on all
// but the last. An empty list is one message.
func (m *Services) Split() []*Services {
	parts := []*Services{{PolicyVersion: m.PolicyVersion}}
	size := 0
	for _, s := range m.Services {
		n := s.encodedBound()
		last := parts[len(parts)-1]
		if size+n > MaxPayload-2*MaxName && len(last.Services) > 0 {
			last.More = true
			last = &Services{PolicyVersion: m.PolicyVersion}
			parts = append(parts, last)
			size = 0
		}
		last.Services = append(last.Services, s)
		size += n
	}
	return parts
}

// encodedBound is at least the number of bytes that s takes on the wire.
func (s *Service) encodedBound() int {
	n := 64 + len(s.Name) + len(s.Description) + len(s.Label) + len(s.Reason)
	for _, h := range s.Hostnames {
		n += len(h) + 3
	}
	for _, t := range s.Tags {
		n += len(t) + 3
	}
	for _, z := range s.Zones {
		n += len(z) + 3
	}
	return n + 20*len(s.Networks) + 10*len(s.Ports)
}
