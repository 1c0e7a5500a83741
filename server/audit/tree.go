package audit

import (
	"encoding/base64"
	"errors"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// A tree is the right edge of the Merkle tree of a log (RFC 6962, 2.1): enough to add leaves and to know the root at
// any moment, in a few hundred bytes. A leaf is a line without its line feed. The zero value is the empty tree.
type tree struct {
	size  uint64
	peaks []tlog.Hash // roots of complete subtrees, the largest first; one for each bit that is set in size
}

func (t *tree) add(line []byte) tlog.Hash {
	h := tlog.RecordHash(line)
	t.addHash(h)
	return h
}

func (t *tree) addHash(h tlog.Hash) {
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.peaks) - 1
		h = tlog.NodeHash(t.peaks[last], h)
		t.peaks = t.peaks[:last]
	}
	t.peaks = append(t.peaks, h)
	t.size++
}

// root folds the peaks from the right. That of the empty tree is zero.
func (t *tree) root() tlog.Hash {
	if len(t.peaks) == 0 {
		return tlog.Hash{}
	}
	h := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.peaks[i], h)
	}
	return h
}

func (t *tree) clone() tree { return tree{t.size, append([]tlog.Hash(nil), t.peaks...)} }

// state is the tree as a record carries it.
func (t *tree) state() *TreeState {
	s := &TreeState{Size: t.size, Peaks: make([]string, len(t.peaks))}
	for i, p := range t.peaks {
		s.Peaks[i] = p.String()
	}
	return s
}

// treeOf is the tree that a record carries.
func treeOf(s *TreeState) (tree, error) {
	if s == nil || len(s.Peaks) != bits.OnesCount64(s.Size) {
		return tree{}, errors.New("the state of the tree is malformed")
	}
	t := tree{size: s.Size, peaks: make([]tlog.Hash, len(s.Peaks))}
	for i, p := range s.Peaks {
		h, err := tlog.ParseHash(p)
		if err != nil {
			return tree{}, errors.New("the state of the tree is malformed")
		}
		t.peaks[i] = h
	}
	return t, nil
}

// prevBytes is how much of a line's hash the next line carries. It is no proof, the checkpoints are; it shows which
// line was changed between two of them.
const prevBytes = 9

func prevOf(h tlog.Hash) string { return base64.RawURLEncoding.EncodeToString(h[:prevBytes]) }
