package audit

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// A disk that is really full.
func TestDiskFullForReal(t *testing.T) {
	testenv.NeedRoot(t)
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=128k,mode=0700"); err != nil {
		testenv.Missing(t, "tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mount, "audit")
	l := open(t, Config{Dir: dir, MinFree: -1})
	defer l.Close()
	var written int
	for written = range 10_000 {
		if _, err := l.Append(t.Context(), Record{Event: EventStreamOpen, Actor: ada()}); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%v", err)
			}
			break
		}
	}
	if st := l.Status(); st.Err == nil || st.Seq != uint64(written+1) || written < 100 {
		t.Errorf("%d records, status %+v", written, st)
	}
	if list := noGaps(t, dir); len(list) != written+1 {
		t.Errorf("%d of %d records can be read", len(list), written+1)
	}
	if _, err := Open(Config{Dir: filepath.Join(mount, "second")}); err == nil {
		t.Error("a log begins on a full disk")
	}
}
