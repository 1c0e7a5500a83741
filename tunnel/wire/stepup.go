package wire

import "time"

// Bounds of a StepUp.
const (
	MaxACR      = 16                   // classes of login that one StepUp may name
	MaxLoginAge = 366 * 24 * time.Hour // the longest MaxAge, and the longest Requestable
)

// StepUp asks for a fresh login (gateway to client): streams of this connection wait for one that is not older than MaxAge. One
// message stands for all of them; a later one replaces it. The client answers with Renewed, or with a StepUp that has a Refusal and
// nothing else: then the streams that wait are refused at once. It is sent only to a client whose Hello has StepUp set.
type StepUp struct {
	Service string        // for people: what the first of the streams is for; empty when it has no name
	MaxAge  time.Duration // how old the login may be when the streams are decided again; 0: any age
	ACR     []string      // the classes of login of which one is needed; empty: any
	Reason  string        // for people: which rule asks for it
	Until   time.Time     // when the streams that wait now are refused; zero: not told
	Refusal string        // client to gateway: why there will be no login
}

type stepUpForm struct {
	Service string   `cbor:"1,keyasint,omitempty"`
	MaxAge  int64    `cbor:"2,keyasint,omitempty"`
	ACR     []string `cbor:"3,keyasint,omitempty"`
	Reason  string   `cbor:"4,keyasint,omitempty"`
	Until   int64    `cbor:"5,keyasint,omitempty"`
	Refusal string   `cbor:"6,keyasint,omitempty"`
}

// Type implements Message.
func (*StepUp) Type() Type { return TypeStepUp }

// MarshalCBOR implements cbor.Marshaler: the age is in milliseconds, as times are.
func (m *StepUp) MarshalCBOR() ([]byte, error) {
	return encoder.Marshal(stepUpForm{m.Service, m.MaxAge.Milliseconds(), m.ACR, m.Reason, toMillis(m.Until), m.Refusal})
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (m *StepUp) UnmarshalCBOR(data []byte) error {
	var f stepUpForm
	if err := decoder.Unmarshal(data, &f); err != nil {
		return err
	}
	age, err := duration("age", f.MaxAge)
	*m = StepUp{f.Service, age, f.ACR, f.Reason, fromMillis(f.Until), f.Refusal}
	return err
}

// Validate implements Message.
func (m *StepUp) Validate() error {
	if len(m.ACR) > MaxACR {
		return malformed("%d classes of login", len(m.ACR))
	}
	if m.Refusal != "" && (m.MaxAge != 0 || len(m.ACR) > 0 || !m.Until.IsZero()) {
		return malformed("a step-up that asks and refuses")
	}
	if m.Refusal == "" && m.MaxAge == 0 && len(m.ACR) == 0 {
		return malformed("a step-up that asks for nothing")
	}
	return firstError(
		checkOptionalToken("service", m.Service, MaxName),
		checkDuration("age", m.MaxAge),
		checkTokens("class of login", m.ACR, MaxHost),
		checkText("reason", m.Reason),
		checkTime(m.Until),
		checkText("refusal", m.Refusal),
	)
}

func (m *StepUp) tidy() {
	m.Reason, m.Refusal = CleanText(m.Reason), CleanText(m.Refusal)
	m.MaxAge = m.MaxAge.Truncate(time.Millisecond)
}

// duration maps milliseconds to a duration, and refuses what checkDuration would, before it can overflow.
func duration(what string, ms int64) (time.Duration, error) {
	if ms < 0 || ms > MaxLoginAge.Milliseconds() {
		return 0, malformed("%s of %d ms", what, ms)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func checkDuration(what string, d time.Duration) error {
	if d < 0 || d > MaxLoginAge {
		return malformed("%s of %s", what, d)
	}
	return nil
}
