package wire

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Hello is the first message on the control stream, from the client. Its form never changes
// between protocol versions, so that two ends of different versions can name them both.
type Hello struct {
	Versions []int  `cbor:"1,keyasint"`           // the protocol versions that the client speaks
	Client   string `cbor:"2,keyasint,omitempty"` // the program's version, for the log
	OS       string `cbor:"3,keyasint,omitempty"` // as runtime.GOOS; not proven, never used to decide
	Arch     string `cbor:"4,keyasint,omitempty"` // as runtime.GOARCH
	Lane     int    `cbor:"5,keyasint,omitempty"` // 0 for the first connection of a session, 1 for the second
	Session  string `cbor:"6,keyasint,omitempty"` // a hint only: the session is the certificate's
	// Posture is what the client says about its device: keys and values for conditions.
	Posture map[string]string `cbor:"7,keyasint,omitempty"`
	// StepUp says that the client can ask for a fresh login while streams wait; without it the
	// gateway answers such streams with CodeStepUpRequired at once.
	StepUp bool `cbor:"8,keyasint,omitempty"`
}

// MaxLanes is how many connections one session may have.
const MaxLanes = 2

// Type implements Message.
func (*Hello) Type() Type { return TypeHello }

// Validate implements Message.
func (m *Hello) Validate() error {
	if len(m.Versions) == 0 || len(m.Versions) > 16 {
		return malformed("hello with %d protocol versions", len(m.Versions))
	}
	if m.Lane < 0 || m.Lane >= MaxLanes {
		return malformed("lane %d", m.Lane)
	}
	return firstError(
		checkText("client version", m.Client),
		checkOptionalToken("operating system", m.OS, MaxName),
		checkOptionalToken("architecture", m.Arch, MaxName),
		checkOptionalToken("session", m.Session, MaxName),
		checkPosture(m.Posture),
	)
}

func (m *Hello) tidy() { m.Client = CleanText(m.Client) }

// SelectVersion returns the newest version of ours that the client speaks too. Otherwise it is a
// *Termination with TerminateVersion whose reason names the versions of both ends.
func (m *Hello) SelectVersion(ours ...int) (int, error) {
	best := 0
	for _, v := range ours {
		if v > best && slices.Contains(m.Versions, v) {
			best = v
		}
	}
	if best == 0 {
		return 0, &Termination{Code: TerminateVersion, Reason: fmt.Sprintf(
			"the gateway speaks protocol version %s, the client speaks %s", joinInts(ours), joinInts(m.Versions))}
	}
	return best, nil
}

func joinInts(list []int) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), ", "), "[]")
}

// Limits is what the gateway allows one connection.
type Limits struct {
	MaxStreams   int `cbor:"1,keyasint,omitempty"` // streams open at once
	MaxUndecided int `cbor:"2,keyasint,omitempty"` // of them, those without a reply yet
	MaxWindow    int `cbor:"3,keyasint,omitempty"` // largest receive window of one stream, in bytes
}

// Welcome is the gateway's answer to Hello.
type Welcome struct {
	Version    int       // the protocol version from here on
	Session    string    // the session's identifier
	Gateway    string    // the gateway's identifier
	ServerTime time.Time // to the millisecond; the client measures its clock against it
	NotAfter   time.Time // when the client's certificate expires
	Deadline   time.Time // when the session ends, whatever is renewed
	Limits     Limits
	Roots      [][]byte // DER certificates of the tunnel's roots that the client is to pin; empty: no change
}

type welcomeForm struct {
	Version    int      `cbor:"1,keyasint"`
	Session    string   `cbor:"2,keyasint,omitempty"`
	Gateway    string   `cbor:"3,keyasint,omitempty"`
	ServerTime int64    `cbor:"4,keyasint,omitempty"`
	NotAfter   int64    `cbor:"5,keyasint,omitempty"`
	Deadline   int64    `cbor:"6,keyasint,omitempty"`
	Limits     Limits   `cbor:"7,keyasint"`
	Roots      [][]byte `cbor:"8,keyasint,omitempty"`
}

// Type implements Message.
func (*Welcome) Type() Type { return TypeWelcome }

// MarshalCBOR implements cbor.Marshaler: times are milliseconds since 1970.
func (m *Welcome) MarshalCBOR() ([]byte, error) {
	return encoder.Marshal(welcomeForm{m.Version, m.Session, m.Gateway,
		toMillis(m.ServerTime), toMillis(m.NotAfter), toMillis(m.Deadline), m.Limits, m.Roots})
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (m *Welcome) UnmarshalCBOR(data []byte) error {
	var f welcomeForm
	if err := decoder.Unmarshal(data, &f); err != nil {
		return err
	}
	*m = Welcome{f.Version, f.Session, f.Gateway,
		fromMillis(f.ServerTime), fromMillis(f.NotAfter), fromMillis(f.Deadline), f.Limits, f.Roots}
	return nil
}

// Validate implements Message.
func (m *Welcome) Validate() error {
	if m.Version < 1 {
		return malformed("welcome with protocol version %d", m.Version)
	}
	if m.Limits.MaxStreams < 0 || m.Limits.MaxUndecided < 0 || m.Limits.MaxWindow < 0 {
		return malformed("welcome with a negative limit")
	}
	return firstError(
		checkOptionalToken("session", m.Session, MaxName),
		checkOptionalToken("gateway", m.Gateway, MaxName),
		checkTime(m.ServerTime), checkTime(m.NotAfter), checkTime(m.Deadline),
		checkBlobs("root", m.Roots),
	)
}

// Renewed presents a renewed certificate of the same session and key (client to gateway, with
// Chain), or answers with how long the session lives now (gateway to client, without it).
type Renewed struct {
	Chain    [][]byte  // DER: the leaf, then its intermediates
	NotAfter time.Time // when the certificate that the gateway goes by expires
	Deadline time.Time // when the session ends
	Roots    [][]byte  // as in Welcome
	Refusal  string    // gateway to client: why the certificate was not taken; the old one stays
}

type renewedForm struct {
	Chain    [][]byte `cbor:"1,keyasint,omitempty"`
	NotAfter int64    `cbor:"2,keyasint,omitempty"`
	Deadline int64    `cbor:"3,keyasint,omitempty"`
	Roots    [][]byte `cbor:"4,keyasint,omitempty"`
	Refusal  string   `cbor:"5,keyasint,omitempty"`
}

// Type implements Message.
func (*Renewed) Type() Type { return TypeRenewed }

// MarshalCBOR implements cbor.Marshaler.
func (m *Renewed) MarshalCBOR() ([]byte, error) {
	return encoder.Marshal(renewedForm{m.Chain, toMillis(m.NotAfter), toMillis(m.Deadline), m.Roots, m.Refusal})
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (m *Renewed) UnmarshalCBOR(data []byte) error {
	var f renewedForm
	if err := decoder.Unmarshal(data, &f); err != nil {
		return err
	}
	*m = Renewed{f.Chain, fromMillis(f.NotAfter), fromMillis(f.Deadline), f.Roots, f.Refusal}
	return nil
}

// Validate implements Message.
func (m *Renewed) Validate() error {
	return firstError(
		checkBlobs("certificate", m.Chain),
		checkBlobs("root", m.Roots),
		checkTime(m.NotAfter), checkTime(m.Deadline),
		checkText("refusal", m.Refusal),
	)
}

func (m *Renewed) tidy() { m.Refusal = CleanText(m.Refusal) }

// Draining says that the gateway takes no new streams on this connection. Open streams go on
// until Deadline; the client connects again, perhaps to another gateway.
type Draining struct {
	Reason   string
	Deadline time.Time
}

type drainingForm struct {
	Reason   string `cbor:"1,keyasint,omitempty"`
	Deadline int64  `cbor:"2,keyasint,omitempty"`
}

// Type implements Message.
func (*Draining) Type() Type { return TypeDraining }

// MarshalCBOR implements cbor.Marshaler.
func (m *Draining) MarshalCBOR() ([]byte, error) {
	return encoder.Marshal(drainingForm{m.Reason, toMillis(m.Deadline)})
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (m *Draining) UnmarshalCBOR(data []byte) error {
	var f drainingForm
	if err := decoder.Unmarshal(data, &f); err != nil {
		return err
	}
	*m = Draining{f.Reason, fromMillis(f.Deadline)}
	return nil
}

// Validate implements Message.
func (m *Draining) Validate() error {
	return firstError(checkText("reason", m.Reason), checkTime(m.Deadline))
}

func (m *Draining) tidy() { m.Reason = CleanText(m.Reason) }

// Posture replaces what Hello said about the device.
type Posture struct {
	Values map[string]string `cbor:"1,keyasint,omitempty"`
}

// Type implements Message.
func (*Posture) Type() Type { return TypePosture }

// Validate implements Message.
func (m *Posture) Validate() error { return checkPosture(m.Values) }

// Ping asks for a Pong with the same nonce.
type Ping struct {
	Nonce uint64 `cbor:"1,keyasint"`
}

// Type implements Message.
func (*Ping) Type() Type { return TypePing }

// Validate implements Message.
func (*Ping) Validate() error { return nil }

// Pong answers a Ping.
type Pong struct {
	Nonce uint64 `cbor:"1,keyasint"`
	Time  int64  `cbor:"2,keyasint,omitempty"` // the sender's clock, in milliseconds since 1970
}

// Type implements Message.
func (*Pong) Type() Type { return TypePong }

// Validate implements Message.
func (*Pong) Validate() error { return nil }

func checkPosture(values map[string]string) error {
	if len(values) > MaxList {
		return malformed("%d posture values", len(values))
	}
	for k, v := range values {
		if err := firstError(checkToken("posture key", k, MaxName), checkText("posture value", v)); err != nil {
			return err
		}
	}
	return nil
}

func checkBlobs(what string, blobs [][]byte) error {
	if len(blobs) > MaxBlobs {
		return malformed("%d %ss", len(blobs), what)
	}
	for _, b := range blobs {
		if len(b) == 0 || len(b) > MaxBlob {
			return malformed("%s of %d bytes", what, len(b))
		}
	}
	return nil
}

// maxMillis is the end of the year 9999, the last one that RFC 5280 can express.
const maxMillis = 253402300799999

func checkTime(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	if ms := t.UnixMilli(); ms <= 0 || ms > maxMillis {
		return malformed("time out of range")
	}
	return nil
}

// toMillis maps the zero time to 0, which is left out of the message.
func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
