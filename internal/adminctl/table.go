package adminctl

import (
	"io"
	"strings"
)

// A column of a table. The zero value is never cut, which is right for what a person copies into the next command.
type column struct {
	name  string
	right bool // numbers
	// most is how wide the column may be when the line would be too long; 0 leaves it whole. What is over is cut from the middle.
	most int
	// words is for sentences, which are broken into lines that stand under each other.
	words bool
}

// A table is rows of text under headings. Its cells must be clean.
type table struct {
	columns []column
	rows    [][]string
}

func newTable(columns ...column) *table { return &table{columns: columns} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

const gap = "  "

// List prints rows under headings as the commands of this package do. The first columns stay whole; the others are sentences, which
// are broken where a line would be longer than the width. 0 breaks none.
func List(w io.Writer, width int, headings []string, whole int, rows [][]string) error {
	t := newTable()
	for i, name := range headings {
		t.columns = append(t.columns, column{name: name, words: i >= whole})
	}
	for _, row := range rows {
		for i := range row {
			row[i] = clean(row[i])
		}
		t.add(row...)
	}
	return t.write(w, width)
}

// write prints the table. Lines fit the limit unless what may not be cut is longer; 0 is no limit.
func (t *table) write(w io.Writer, limit int) error {
	t.dropEmpty()
	widths := t.widths(limit)
	var b strings.Builder
	head := make([]string, len(t.columns))
	for i, c := range t.columns {
		head[i] = c.name
	}
	t.line(&b, widths, head)
	for _, row := range t.rows {
		t.line(&b, widths, row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// dropEmpty leaves columns out in which no row says anything.
func (t *table) dropEmpty() {
	for i := len(t.columns) - 1; i >= 0; i-- {
		used := len(t.rows) == 0
		for _, row := range t.rows {
			used = used || row[i] != ""
		}
		if used {
			continue
		}
		t.columns = append(t.columns[:i:i], t.columns[i+1:]...)
		for r, row := range t.rows {
			t.rows[r] = append(row[:i:i], row[i+1:]...)
		}
	}
}

// How narrow a column of sentences may become: for its own sake, and when nothing else can give way.
const (
	goodWords  = 40
	leastWords = 24
)

func (t *table) widths(limit int) []int {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = width(c.name)
		for _, row := range t.rows {
			widths[i] = max(widths[i], width(row[i]))
		}
	}
	if limit <= 0 {
		return widths
	}
	// Sentences give way first, then the widest of the others, then sentences again.
	words := func(least int) func(column) int {
		return func(c column) int {
			if c.words {
				return least
			}
			return 0
		}
	}
	t.squeeze(widths, limit, words(goodWords))
	t.squeeze(widths, limit, func(c column) int { return c.most })
	t.squeeze(widths, limit, words(leastWords))
	return widths
}

// squeeze narrows columns down to their least width, the one that is furthest above it first, until a line fits. 0 leaves a column whole.
func (t *table) squeeze(widths []int, limit int, least func(column) int) {
	for {
		over := len(gap)*(len(widths)-1) - limit
		widest, spare := 0, 0
		for i, c := range t.columns {
			over += widths[i]
			if n := least(c); n > 0 && widths[i]-n > spare {
				widest, spare = i, widths[i]-n
			}
		}
		if over <= 0 || spare == 0 {
			return
		}
		widths[widest] -= min(over, spare)
	}
}

// line prints one row; sentences may make it several lines.
func (t *table) line(b *strings.Builder, widths []int, cells []string) {
	texts, height := make([][]string, len(cells)), 1
	for i, c := range t.columns {
		texts[i] = []string{middle(cells[i], widths[i])}
		if c.words {
			texts[i] = wrap(cells[i], widths[i])
		}
		height = max(height, len(texts[i]))
	}
	for n := range height {
		var text strings.Builder
		for i, c := range t.columns {
			if i > 0 {
				text.WriteString(gap)
			}
			cell := ""
			if n < len(texts[i]) {
				cell = texts[i][n]
			}
			pad := strings.Repeat(" ", max(widths[i]-width(cell), 0))
			if c.right {
				text.WriteString(pad + cell)
			} else {
				text.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
}

// A sheet is one thing with its facts: name and value under each other.
type sheet struct{ facts [][2]string }

// add puts a fact on the sheet, unless there is nothing to say.
func (s *sheet) add(name, value string) {
	if value != "" {
		s.facts = append(s.facts, [2]string{name, value})
	}
}

// write prints the sheet, in lines of at most limit characters; 0 is no limit.
func (s *sheet) write(w io.Writer, limit int) error {
	widest := 0
	for _, f := range s.facts {
		widest = max(widest, width(f[0]))
	}
	room := 0
	if limit > 0 {
		room = max(limit-widest-len(gap), leastWords)
	}
	var b strings.Builder
	for _, f := range s.facts {
		for n, line := range wrap(f[1], room) {
			name := f[0]
			if n > 0 {
				name = ""
			}
			b.WriteString(name + strings.Repeat(" ", widest-width(name)) + gap + line + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
