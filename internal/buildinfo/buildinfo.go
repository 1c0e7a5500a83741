// Package buildinfo tells which build of Culvert runs: the version, commit and
// date that the release stamped, or what the Go toolchain recorded. It does not
// read the environment.
package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Stamped by the release with -ldflags -X; empty in a build from source.
var (
	version string
	commit  string
	date    string
)

// Info describes a build. It is what `version --json` prints.
type Info struct {
	Version string `json:"version"` // "1.2.3", or "devel"
	Commit  string `json:"commit,omitempty"`
	Date    string `json:"date,omitempty"` // of the commit, RFC 3339
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// Read returns the description of this build.
func Read() Info {
	info := Info{Version: version, Commit: commit, Date: date, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if build, ok := debug.ReadBuildInfo(); ok {
		fill(&info, build)
	}
	if info.Version == "" || info.Version == "(devel)" {
		info.Version = "devel"
	}
	return info
}

func fill(info *Info, build *debug.BuildInfo) {
	if info.Version == "" {
		info.Version = build.Main.Version
	}
	for _, s := range build.Settings {
		switch {
		case s.Key == "vcs.revision" && info.Commit == "":
			info.Commit = s.Value
		case s.Key == "vcs.time" && info.Date == "":
			info.Date = s.Value
		}
	}
}

// Version returns the version alone.
func Version() string { return Read().Version }

// String returns one line for people: "devel (commit abc, go1.26.8, linux/amd64)".
func (i Info) String() string {
	s := i.Version + " ("
	if i.Commit != "" {
		s += "commit " + i.Commit[:min(12, len(i.Commit))] + ", "
	}
	if i.Date != "" {
		s += i.Date + ", "
	}
	return fmt.Sprintf("%s%s, %s/%s)", s, i.Go, i.OS, i.Arch)
}
