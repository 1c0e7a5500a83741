package tunnel

import "sync"

// Sizes of borrowed buffers for what is to be sent: most of it is a few small frames.
const (
	smallBuffer  = 4 << 10
	mediumBuffer = 32 << 10
	largeBuffer  = bulkQueue + 80<<10 // the queue of the frame writer and one frame more
)

var bufferPools = struct{ small, medium, large sync.Pool }{
	small:  sync.Pool{New: func() any { b := make([]byte, 0, smallBuffer); return &b }},
	medium: sync.Pool{New: func() any { b := make([]byte, 0, mediumBuffer); return &b }},
	large:  sync.Pool{New: func() any { b := make([]byte, 0, largeBuffer); return &b }},
}

func bufferPool(size int) *sync.Pool {
	switch {
	case size <= smallBuffer:
		return &bufferPools.small
	case size <= mediumBuffer:
		return &bufferPools.medium
	}
	return &bufferPools.large
}

// extend makes room for n more bytes behind b, which is nil or was borrowed, if need be in a larger buffer, and returns it.
func extend(b []byte, n int) []byte {
	need := len(b) + n
	if need <= cap(b) {
		return b
	}
	larger := *bufferPool(need).Get().(*[]byte)
	if need > cap(larger) { // beyond the largest: rare, and not kept
		giveBack(larger)
		larger = make([]byte, 0, 2*need)
	}
	larger = append(larger, b...)
	giveBack(b)
	return larger
}

// giveBack ends the use of a borrowed buffer.
func giveBack(b []byte) {
	switch cap(b) {
	case smallBuffer, mediumBuffer, largeBuffer:
		b = b[:0]
		bufferPool(cap(b)).Put(&b)
	}
}
