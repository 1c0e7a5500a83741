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
	// words is for sentences: the last column alone, broken into lines that stand under each other.
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

// write prints the table. Lines fit lineWidth unless what may not be cut is longer.
func (t *table) write(w io.Writer) error {
	t.dropEmpty()
	widths := t.widths()
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

func (t *table) widths() []int {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = width(c.name)
		for _, row := range t.rows {
			widths[i] = max(widths[i], width(row[i]))
		}
	}
	// Sentences give way first, then the widest of the others, then sentences again.
	last := len(t.columns) - 1
	squeeze := func(least int) {
		if over := t.over(widths); over > 0 && last >= 0 && t.columns[last].words {
			widths[last] = max(widths[last]-over, min(least, widths[last]))
		}
	}
	squeeze(goodWords)
	defer squeeze(leastWords)
	for over := t.over(widths); over > 0; over = t.over(widths) {
		widest := -1
		for i, c := range t.columns {
			if c.most > 0 && widths[i] > c.most && (widest < 0 || widths[i]-c.most > widths[widest]-t.columns[widest].most) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest] = max(widths[widest]-over, t.columns[widest].most)
	}
	return widths
}

// over is by how much a line is too long.
func (t *table) over(widths []int) int {
	sum := len(gap) * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	return sum - lineWidth
}

func (t *table) line(b *strings.Builder, widths []int, cells []string) {
	indent := 0
	var text strings.Builder
	for i, c := range t.columns {
		if i > 0 {
			text.WriteString(gap)
			indent += len(gap)
		}
		if c.words {
			continue // the last
		}
		cell := cells[i]
		if width(cell) > widths[i] {
			cell = middle(cell, widths[i])
		}
		pad := strings.Repeat(" ", widths[i]-width(cell))
		if c.right {
			cell = pad + cell
		} else {
			cell += pad
		}
		text.WriteString(cell)
		indent += widths[i]
	}
	last := len(t.columns) - 1
	if last < 0 || !t.columns[last].words {
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
		return
	}
	for n, words := range wrap(cells[last], max(widths[last], 1)) {
		if n == 0 {
			b.WriteString(strings.TrimRight(text.String()+words, " ") + "\n")
			continue
		}
		b.WriteString(strings.Repeat(" ", indent) + words + "\n")
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

func (s *sheet) write(w io.Writer) error {
	widest := 0
	for _, f := range s.facts {
		widest = max(widest, width(f[0]))
	}
	var b strings.Builder
	for _, f := range s.facts {
		for n, line := range wrap(f[1], lineWidth-widest-len(gap)) {
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
