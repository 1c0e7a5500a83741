package policy

import _ "embed"

//go:embed example.yaml
var example string

// Example returns a commented policy file that loads and passes its own tests: what a new gateway
// begins with.
func Example() []byte { return []byte(example) }
