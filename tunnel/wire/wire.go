// Package wire encodes and decodes what the two ends of a Culvert tunnel say to
// each other: the messages of the control stream, the request and the reply that
// open every other stream, and the records that carry payload.
//
// It does no I/O, starts no goroutine and keeps no state. It does not know
// yamux or TLS either: package tunnel puts what is encoded here on a stream.
// docs/protocol.md is the normative text, and testdata/vectors.json holds one
// golden vector for every message.
//
// Messages and records share one frame:
//
//	 0               1               2               3
//	+---------------+---------------+---------------+---------------+
//	|     type      |             length (big endian)               |
//	+---------------+---------------+---------------+---------------+
//	|  length bytes: payload (records) or one CBOR map (messages)   |
//	+---------------------------------------------------------------+
//
// Version history:
//
//	1  the first version
package wire

import (
	"errors"
	"fmt"
)

// ProtocolVersion is the newest protocol version that this package speaks.
const ProtocolVersion = 1

// ALPN is the application protocol name of the tunnel in TLS (RFC 7301).
const ALPN = "culvert/1"

// Sizes of frames, in bytes.
const (
	// HeaderSize is the length of the header in front of every record and message.
	HeaderSize = 4
	// MaxPayload is the longest payload of a record and the longest body of a
	// message. With this header and the 12 bytes that yamux adds, a full record
	// fills exactly four TLS records of 16 KiB.
	MaxPayload = 65520
	// MaxEarlyData is how many payload bytes may follow an OpenRequest before
	// its OpenReply arrived.
	MaxEarlyData = 64 << 10
)

// Bounds of what a session may ask for; a peer that goes beyond them breaks the protocol.
const (
	// MaxUndecided is how many streams of one session may wait for their OpenReply.
	MaxUndecided = 64
	// MaxServices is how many services a gateway may announce, over all parts of
	// one announcement.
	MaxServices = 8192
)

// Type says what a frame holds.
type Type uint8

// Frame types. Records and the two opening messages stand on every stream but the
// first one, all others on the control stream only.
const (
	TypeData     Type = 0x01 // bytes of a tcp stream
	TypeDatagram Type = 0x02 // one datagram of a udp stream
	TypeEnd      Type = 0x03 // no more payload in this direction, a clean half-close; length 0

	TypeOpenRequest Type = 0x10
	TypeOpenReply   Type = 0x11

	TypeHello      Type = 0x20
	TypeWelcome    Type = 0x21
	TypeServices   Type = 0x22
	TypePosture    Type = 0x23
	TypeRenewed    Type = 0x24
	TypeDraining   Type = 0x25
	TypeTerminated Type = 0x26
	TypeAbort      Type = 0x27
	TypePing       Type = 0x28
	TypePong       Type = 0x29
	TypeStepUp     Type = 0x2a
)

var typeNames = map[Type]string{
	TypeData: "data", TypeDatagram: "datagram", TypeEnd: "end",
	TypeOpenRequest: "open request", TypeOpenReply: "open reply",
	TypeHello: "hello", TypeWelcome: "welcome", TypeServices: "services", TypePosture: "posture",
	TypeRenewed: "renewed", TypeDraining: "draining", TypeTerminated: "terminated",
	TypeAbort: "abort", TypePing: "ping", TypePong: "pong", TypeStepUp: "step-up",
}

// String returns the name that docs/protocol.md uses, or "type 0x7f" for an unknown type.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type 0x%02x", uint8(t))
}

// IsRecord reports whether a frame of this type carries payload or ends it.
func (t Type) IsRecord() bool {
	return t == TypeData || t == TypeDatagram || t == TypeEnd
}

// ErrMalformed is what every decoding and validation error of this package wraps:
// the peer broke the protocol.
var ErrMalformed = errors.New("malformed message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Header is the four bytes in front of every record and message.
type Header struct {
	Type   Type
	Length int // 0 … MaxPayload
}

// PutHeader encodes h into the first HeaderSize bytes of dst. The caller keeps
// h.Length within MaxPayload.
func PutHeader(dst []byte, h Header) {
	_ = dst[3]
	dst[0] = byte(h.Type)
	dst[1] = byte(h.Length >> 16)
	dst[2] = byte(h.Length >> 8)
	dst[3] = byte(h.Length)
}

// ParseHeader decodes the first HeaderSize bytes of src. It refuses unknown types,
// lengths beyond MaxPayload, an end with a payload and a data record without one.
func ParseHeader(src []byte) (Header, error) {
	if len(src) < HeaderSize {
		return Header{}, malformed("header of %d bytes", len(src))
	}
	h := Header{Type: Type(src[0]), Length: int(src[1])<<16 | int(src[2])<<8 | int(src[3])}
	if _, known := typeNames[h.Type]; !known {
		return Header{}, malformed("unknown %s", h.Type)
	}
	return h, h.check()
}

func (h Header) check() error {
	switch {
	case h.Length > MaxPayload:
		return malformed("%s of %d bytes, at most %d are allowed", h.Type, h.Length, MaxPayload)
	case h.Type == TypeEnd && h.Length != 0:
		return malformed("end with %d bytes", h.Length)
	case h.Type != TypeEnd && h.Type != TypeDatagram && h.Length == 0:
		return malformed("empty %s", h.Type)
	}
	return nil
}
