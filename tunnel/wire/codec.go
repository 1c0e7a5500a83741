package wire

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Message is one of the message types of this package, as a pointer.
type Message interface {
	// Type is the frame type that carries the message.
	Type() Type
	// Validate reports what docs/protocol.md does not allow, as ErrMalformed.
	Validate() error
}

// tidier is a message with text for people in it: it is shortened and cleaned
// before it is sent, so that a long or odd reason never costs a session.
type tidier interface{ tidy() }

// Marshal returns the frame of m: header and body. Text meant for people is cut to its
// limit and cleaned of control characters; anything else that is not valid is an error.
func Marshal(m Message) ([]byte, error) {
	if t, ok := m.(tidier); ok {
		t.tidy()
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("marshal %s: %w", m.Type(), err)
	}
	body, err := encoder.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal %s: %w", m.Type(), err)
	}
	if len(body) > MaxPayload {
		return nil, fmt.Errorf("marshal %s: %d bytes, at most %d fit", m.Type(), len(body), MaxPayload)
	}
	frame := make([]byte, HeaderSize, HeaderSize+len(body))
	PutHeader(frame, Header{Type: m.Type(), Length: len(body)})
	return append(frame, body...), nil
}

// Parse decodes and validates the body of a message of type t. What it returns shares no
// memory with body. Unknown map keys are ignored: that is how version 1 grows.
func Parse(t Type, body []byte) (Message, error) {
	if len(body) > MaxPayload {
		return nil, malformed("%s of %d bytes", t, len(body))
	}
	m := newMessage(t)
	if m == nil {
		return nil, malformed("%s is not a message", t)
	}
	if err := decoder.Unmarshal(body, m); err != nil {
		return nil, malformed("%s: %v", t, err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	return m, nil
}

// ParseFrame is Parse for a whole frame as Marshal returns it.
func ParseFrame(frame []byte) (Message, error) {
	h, err := ParseHeader(frame)
	if err != nil {
		return nil, err
	}
	if len(frame) != HeaderSize+h.Length {
		return nil, malformed("%s of %d bytes in a frame of %d", h.Type, h.Length, len(frame))
	}
	return Parse(h.Type, frame[HeaderSize:])
}

func newMessage(t Type) Message {
	switch t {
	case TypeOpenRequest:
		return new(OpenRequest)
	case TypeOpenReply:
		return new(OpenReply)
	case TypeHello:
		return new(Hello)
	case TypeWelcome:
		return new(Welcome)
	case TypeServices:
		return new(Services)
	case TypePosture:
		return new(Posture)
	case TypeRenewed:
		return new(Renewed)
	case TypeDraining:
		return new(Draining)
	case TypeTerminated:
		return new(Termination)
	case TypeAbort:
		return new(Abort)
	case TypePing:
		return new(Ping)
	case TypePong:
		return new(Pong)
	case TypeStepUp:
		return new(StepUp)
	}
	return nil
}

// The encoder writes RFC 8949 section 4.2.1 (core deterministic); the decoder takes
// definite lengths only, no tags, no duplicate keys, valid UTF-8, and little nesting.
var (
	encoder = mustEncMode(cbor.CoreDetEncOptions())
	decoder = mustDecMode(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   6,
		MaxArrayElements:  MaxServices,
		MaxMapPairs:       64,
		UTF8:              cbor.UTF8RejectInvalid,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	})
)

// mustEncMode panics on options that the library refuses, which no input can cause.
func mustEncMode(o cbor.EncOptions) cbor.EncMode {
	mode, err := o.EncMode()
	if err != nil {
		panic(err)
	}
	return mode
}

func mustDecMode(o cbor.DecOptions) cbor.DecMode {
	mode, err := o.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}
