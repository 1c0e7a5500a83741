package relay

import "sync"

// bufferSize is the payload of one full data record of the tunnel (docs/protocol.md), so that one read of a busy socket becomes
// exactly one record and four full TLS records.
const bufferSize = 65520

type buffer struct{ bytes [bufferSize]byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func takeBuffer() *buffer  { return buffers.Get().(*buffer) }
func (b *buffer) release() { buffers.Put(b) }
