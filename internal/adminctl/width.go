package adminctl

import (
	"io"
	"os"
)

const (
	usualWidth = 100 // of a terminal that does not say: half of a wide one
	leastWidth = 60  // narrower ones break the lines themselves
)

// LineWidth is how long a line to out may be: a terminal's width. It is 0, any length, for everything else, so that grep and its like
// see whole lines.
func LineWidth(out io.Writer) int {
	if !terminal(out) {
		return 0
	}
	columns := columns(out.(*os.File))
	if columns <= 0 {
		return usualWidth
	}
	return max(columns, leastWidth)
}
