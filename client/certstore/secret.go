package certstore

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Secret is a text or key that must not be printed. Every way of formatting, logging or marshalling it gives
// "[redacted]"; [Secret.Reveal] gives the bytes. It is not comparable with ==; use [Secret.Equal]. The zero value is an
// empty secret.
type Secret struct{ b []byte }

const redacted = "[redacted]"

// NewSecretString returns a secret with this text.
func NewSecretString(s string) Secret { return Secret{[]byte(s)} }

// Reveal returns a copy of the secret's bytes.
func (s Secret) Reveal() []byte { return append([]byte(nil), s.b...) }

// RevealString returns the secret as a text.
func (s Secret) RevealString() string { return string(s.b) }

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return len(s.b) == 0 }

// Equal compares in constant time.
func (s Secret) Equal(other Secret) bool { return subtle.ConstantTimeCompare(s.b, other.b) == 1 }

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// GoString returns "[redacted]", for %#v.
func (s Secret) GoString() string { return redacted }

// Format writes "[redacted]" whatever the verb: %x and %d would reach the bytes by reflection otherwise.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]"; encoding/json and others use it. There is no way back: secrets are stored
// sealed, by this package.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
