package relaytest

import "testing"

func TestPlainConnection(t *testing.T) { Run(t, Pair) }
