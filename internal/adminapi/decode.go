package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Unknown says what becomes of fields that a message does not have.
type Unknown bool

// A gateway is strict: a field that it does not know may be what the caller relied on. A client is lenient, so that a newer
// gateway may say more.
const (
	Strict  Unknown = false
	Lenient Unknown = true
)

// maxDepth is how deep a message may nest.
const maxDepth = 16

// Decode reads one JSON message. Unlike encoding/json it refuses a repeated key, whatever its case, deep nesting, and
// anything behind the message.
func Decode(data []byte, into any, unknown Unknown) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if unknown == Strict {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(into); err != nil {
		var typed *json.UnmarshalTypeError
		if errors.As(err, &typed) {
			return fmt.Errorf("the field %q cannot be a %s", typed.Field, typed.Value)
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// checkJSON walks the tokens once, with a stack no deeper than maxDepth.
func checkJSON(data []byte) error {
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
		stack[len(stack)-1].afterKey = false
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
