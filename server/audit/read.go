package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// logFiles are the segments of one log, in order.
type logFiles struct {
	id      string
	paths   []string
	numbers []int
}

// listSegments lists the logs in the order of their starts. What does not have the name of a segment is no part of it.
func listSegments(dir string) ([]logFiles, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list audit log: %w", err)
	}
	var logs []logFiles
	for _, e := range entries { // sorted
		id, number, ok := segmentName(e.Name())
		if !ok {
			continue
		}
		if n := len(logs); n == 0 || logs[n-1].id != id {
			logs = append(logs, logFiles{id: id})
		}
		l := &logs[len(logs)-1]
		l.paths, l.numbers = append(l.paths, filepath.Join(dir, e.Name())), append(l.numbers, number)
	}
	return logs, nil
}

// segmentName parses "<time>-<random>-<number>.jsonl".
func segmentName(name string) (id string, number int, ok bool) {
	name, ok = strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return "", 0, false
	}
	i := strings.LastIndexByte(name, '-')
	if i < 0 || len(name)-i-1 < 6 {
		return "", 0, false
	}
	number, err := strconv.Atoi(name[i+1:])
	_, _, ok = cut(name[:i])
	return name[:i], number, ok && err == nil && number > 0
}

// cut cuts a log's name into its time and its random part.
func cut(id string) (stamp, random string, ok bool) {
	stamp, random, ok = strings.Cut(id, "-")
	return stamp, random, ok && len(stamp) == len(logTimeLayout) && random != "" && !strings.ContainsAny(random, "-/")
}

// findLog returns the files of a log.
func findLog(logs []logFiles, id string) (logFiles, bool) {
	i, ok := slices.BinarySearchFunc(logs, id, func(l logFiles, id string) int { return strings.Compare(l.id, id) })
	if !ok {
		return logFiles{}, false
	}
	return logs[i], true
}

// damage says what could not be read.
type damage struct {
	cut   int64 // bytes of a last line without an end
	lines int   // other lines
}
