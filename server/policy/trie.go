package policy

import "net/netip"

// A trie finds the networks that contain an address, of one address family, by walking the address's bits
// from the front. The zero trie is empty.
type trie struct{ nodes []trieNode }

type trieNode struct {
	child    [2]int32 // 0: none, as the root is nobody's child
	services []int32  // whose network ends here
}

func (t *trie) insert(p netip.Prefix, service int32) {
	if t.nodes == nil {
		t.nodes = make([]trieNode, 1)
	}
	bits := bitsOf(p.Addr())
	at := int32(0)
	for i := range p.Bits() {
		next := t.nodes[at].child[bits.at(i)]
		if next == 0 {
			next = int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{})
			t.nodes[at].child[bits.at(i)] = next
		}
		at = next
	}
	t.nodes[at].services = append(t.nodes[at].services, service)
}

// addrBits are the bytes of an address, 4 or 16 of them in front.
type addrBits [16]byte

func bitsOf(addr netip.Addr) addrBits {
	if addr.Is4() {
		var b addrBits
		four := addr.As4()
		copy(b[:], four[:])
		return b
	}
	return addr.As16()
}

// at returns bit i, counted from the front.
func (b *addrBits) at(i int) byte { return b[i/8] >> (7 - i%8) & 1 }
