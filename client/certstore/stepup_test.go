package certstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDeclinedIsKnownToOtherProcesses(t *testing.T) {
	dir := t.TempDir()
	one, two := openProfile(t, dir, ""), openProfile(t, dir, "")
	if d, err := two.Declined(); err != nil || d.Reason != "" {
		t.Fatalf("nothing was declined, and it is %+v, %v", d, err)
	}
	lock, err := one.LockStepUp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := two.LockStepUp(ctx); err == nil {
		t.Error("two processes ask at once")
	}
	if err := one.Decline("the sign-in was cancelled", true); err != nil {
		t.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if d, err := two.Declined(); err != nil || d.Reason != "the sign-in was cancelled" || !d.Unanswered || time.Since(d.At) > time.Minute {
		t.Errorf("declined: %+v, %v", d, err)
	}
	if err := os.WriteFile(filepath.Join(one.Dir(), stepUpFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := two.Declined(); !errors.As(err, &corrupt) {
		t.Errorf("a corrupt file: %v", err)
	}
	if err := one.Decline("again", false); err != nil {
		t.Errorf("over a corrupt file: %v", err)
	}
}
