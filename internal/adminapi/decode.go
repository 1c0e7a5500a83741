package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/culvert-vpn/culvert/internal/strictjson"
)

// Unknown says what becomes of fields that a message does not have.
type Unknown bool

// A gateway is strict: a field that it does not know may be what the caller relied on. A client is lenient, so that a newer
// gateway may say more.
const (
	Strict  Unknown = false
	Lenient Unknown = true
)

// Decode reads one JSON message. Unlike encoding/json it refuses a repeated key, whatever its case, deep nesting, and
// anything behind the message.
func Decode(data []byte, into any, unknown Unknown) error {
	if err := strictjson.Check(data); err != nil {
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
