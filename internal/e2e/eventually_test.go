//go:build linux

package e2e

import (
	"testing"
	"time"
)

// eventually asks again and again until ok, for things that another process
// does and that cannot be waited for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after %v: %s", patience, what)
		}
		<-ticker.C
	}
}
