package buildinfo

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestFillPrefersWhatTheReleaseStamped(t *testing.T) {
	build := &debug.BuildInfo{Main: debug.Module{Version: "v0.0.0"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}}}
	stamped := Info{Version: "1.2.3", Commit: "feed"}
	fill(&stamped, build)
	if stamped.Version != "1.2.3" || stamped.Commit != "feed" || stamped.Date != "2026-01-02T03:04:05Z" {
		t.Errorf("stamped build: %+v", stamped)
	}
	var source Info
	fill(&source, build)
	if source.Version != "v0.0.0" || source.Commit != "0123456789abcdef" {
		t.Errorf("build from source: %+v", source)
	}
	if s := source.String(); !strings.Contains(s, "commit 0123456789ab,") {
		t.Errorf("String %q does not shorten the commit", s)
	}
}

func TestReadAlwaysNamesAVersion(t *testing.T) {
	if v := Version(); v == "" || v == "(devel)" {
		t.Errorf("Version %q", v)
	}
}
