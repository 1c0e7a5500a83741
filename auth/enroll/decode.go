package enroll

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/culvert-vpn/culvert/internal/strictjson"
)

// Decode reads one JSON message. Unlike encoding/json it refuses a repeated
// key, whatever its case, deep nesting, and anything behind the message.
// Unknown keys are ignored, so that a newer peer may say more.
func Decode(data []byte, into any) error {
	if err := strictjson.Check(data); err != nil {
		return fmt.Errorf("not a message of this protocol: %w", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		var typed *json.UnmarshalTypeError
		if errors.As(err, &typed) {
			return fmt.Errorf("the field %q cannot be a %s", typed.Field, typed.Value)
		}
		return fmt.Errorf("not the expected JSON: %w", err)
	}
	return nil
}
