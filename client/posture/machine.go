package posture

import "context"

// A machine is a Unix system as a program without privilege sees it. Everything is read only, bounded in size, and false or empty where
// it cannot be had.
type machine interface {
	// file returns the text of a small file.
	file(path string) (string, bool)
	// entries lists the names in a folder.
	entries(path string) []string
	// link returns what a symbolic link points to, as it is written there. It is empty for what is no link.
	link(path string) string
	// run returns what a program of the system printed, on both outputs, if it ended well before ctx did. The name is looked for in fixed
	// folders of the system, never along PATH; no shell sees it.
	run(ctx context.Context, program string, args ...string) (string, bool)
	// env returns a variable of this process's environment.
	env(name string) string
	// home is the person's home folder; empty when it is not known.
	home() string
}
