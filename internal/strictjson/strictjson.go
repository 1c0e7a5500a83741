// Package strictjson looks at JSON before it is decoded, for what encoding/json
// lets pass and two readers may take differently. It decodes nothing, and leaves
// unknown keys and the types of values to the decoder.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxDepth is how deep a message may nest. The deepest message of Culvert's, a
// provider's settings in the discovery document, needs five levels.
const maxDepth = 16

// Check reads one JSON value and refuses a key that comes twice in an object,
// whatever its case (encoding/json matches keys of any case, and the last one
// wins), deep nesting, and anything behind the value. It walks the tokens once,
// with a stack no deeper than maxDepth. The errors may be shown to who sent it.
func Check(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // a number is judged by the field that it goes into
	var stack []*level
	for {
		tok, err := dec.Token()
		if err != nil {
			return fmt.Errorf("not JSON: %w", err)
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if len(stack) == maxDepth {
				return fmt.Errorf("nested deeper than %d", maxDepth)
			}
			stack = append(stack, &level{object: tok == json.Delim('{'), seen: map[string]bool{}})
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		default:
			if len(stack) > 0 {
				if err := stack[len(stack)-1].scalar(tok); err != nil {
					return err
				}
				continue
			}
		}
		if len(stack) == 0 {
			return trailing(dec)
		}
		stack[len(stack)-1].afterKey = false // the value that ended was a key's
	}
}

// level is one object or array being walked.
type level struct {
	object   bool
	afterKey bool
	seen     map[string]bool
}

// scalar takes a token that is a key or a plain value.
func (l *level) scalar(tok json.Token) error {
	if !l.object || l.afterKey {
		l.afterKey = false
		return nil
	}
	key := strings.ToLower(tok.(string))
	if l.seen[key] {
		return fmt.Errorf("the key %.64q comes twice", tok)
	}
	l.seen[key], l.afterKey = true, true
	return nil
}

func trailing(dec *json.Decoder) error {
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the message")
	}
	return nil
}
