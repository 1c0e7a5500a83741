package audit

import (
	"path/filepath"
	"testing"
)

// whole holds that a folder verifies.
func whole(t testing.TB, dir string) Report {
	t.Helper()
	report, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Faults {
		t.Errorf("not whole: %s", f)
	}
	return report
}

// logOf returns the log that a segment's file belongs to.
func logOf(path string) string {
	id, _, _ := segmentName(filepath.Base(path))
	return id
}
