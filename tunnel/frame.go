package tunnel

import (
	"encoding/binary"
	"fmt"
)

// frameSize is the length of yamux's header: version, type, flags (2), stream (4), length (4), big endian.
const frameSize = 12

type frameType uint8

const (
	frameData   frameType = 0 // length bytes of payload follow
	frameWindow frameType = 1 // length is credit
	framePing   frameType = 2 // length is an opaque value that the answer repeats
	frameGoAway frameType = 3 // length is an error code
)

const (
	flagSYN uint16 = 1 << iota
	flagACK
	flagFIN
	flagRST
)

// frame is a yamux header.
type frame struct {
	kind   frameType
	flags  uint16
	id     uint32
	length uint32
}

func (f frame) put(dst []byte) {
	_ = dst[11]
	dst[0] = 0 // yamux's protocol version
	dst[1] = byte(f.kind)
	binary.BigEndian.PutUint16(dst[2:4], f.flags)
	binary.BigEndian.PutUint32(dst[4:8], f.id)
	binary.BigEndian.PutUint32(dst[8:12], f.length)
}

func (f frame) append(dst []byte) []byte {
	var b [frameSize]byte
	f.put(b[:])
	return append(dst, b[:]...)
}

func (f frame) has(flag uint16) bool { return f.flags&flag != 0 }

// body is the number of bytes that follow the header.
func (f frame) body() int {
	if f.kind == frameData {
		return int(f.length)
	}
	return 0
}

func parseFrame(src []byte) (frame, error) {
	_ = src[11]
	f := frame{
		kind:   frameType(src[1]),
		flags:  binary.BigEndian.Uint16(src[2:4]),
		id:     binary.BigEndian.Uint32(src[4:8]),
		length: binary.BigEndian.Uint32(src[8:12]),
	}
	if src[0] != 0 || f.kind > frameGoAway || f.flags > 15 {
		return f, protocolError("yamux header %x", src[:frameSize])
	}
	return f, nil
}

func (f frame) String() string {
	return fmt.Sprintf("yamux frame type %d flags %d stream %d length %d", f.kind, f.flags, f.id, f.length)
}
