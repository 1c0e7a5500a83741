package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// keep is the log's goroutine: it syncs, signs, writes summaries of repetitions, watches the free space and retries
// after a fault.
func (l *Log) keep() {
	defer close(l.done)
	window := time.NewTicker(l.cfg.RepeatWindow)
	defer window.Stop()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	checkpoint := time.NewTicker(l.cfg.CheckpointEvery)
	defer checkpoint.Stop()
	for {
		select {
		case <-l.urgent:
			l.sync()
		case <-l.soon:
			l.pause()
			l.sync()
		case <-window.C:
			l.flushRepeats()
		case <-retry.C:
			l.heal()
		case <-checkpoint.C:
			l.signOff()
		case <-l.closed:
			return
		}
	}
}

// pause lets more records gather before a sync, unless one is urgent.
func (l *Log) pause() {
	t := time.NewTimer(l.cfg.SyncDelay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.urgent:
	case <-l.closed:
	}
}

// sync runs one round: everything written before it begins is on the disk when it ends.
func (l *Log) sync() {
	l.pen.Lock()
	l.writeQueue(nil)
	if l.w.idle() {
		l.putDown()
		return
	}
	round, files := l.w.beginRound()
	l.putDown()
	err := syncFiles(files)
	l.pen.Lock()
	good := l.w.endRound(round, files, err)
	l.putDown()
	if err != nil {
		l.cfg.Logger.Error("audit log is not written to the disk", "error", err)
	}
	if good {
		l.settle(files)
	}
}

// syncAll is a round with the pen in hand all the time, for the beginning and the end.
func (l *Log) syncAll() error {
	round, files := l.w.beginRound()
	err := syncFiles(files)
	if l.w.endRound(round, files, err) {
		l.settle(files)
	}
	return round.err
}

// settle does what had to wait until the records of it were on the disk.
func (l *Log) settle(files roundFiles) {
	for _, path := range files.doomed {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.cfg.Logger.Warn("an old audit segment stays", "file", filepath.Base(path), "error", err)
		}
	}
	l.mu.Lock()
	l.end = files.end
	l.mu.Unlock()
	l.wake()
	if files.news != nil {
		l.notary.post(*files.news)
	}
}

// wake tells readers that there is more.
func (l *Log) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.grown)
	l.grown = make(chan struct{})
}

// onDisk returns the position behind the last record that is on the disk, and a channel that is closed when there is
// more, or the log has ended.
func (l *Log) onDisk() (end Position, grown <-chan struct{}, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end, l.grown, l.stopped
}

// heal writes what waits, once a second, so that a log recovers without new events.
func (l *Log) heal() {
	l.mu.Lock()
	waits := l.snap.fault != nil || len(l.backlog) > 0 || l.lost > 0
	if l.cfg.OnFailure == Continue && l.snap.fault != nil {
		l.shoutLocked(l.snap.fault)
	}
	l.mu.Unlock()
	l.pen.Lock()
	if waits {
		l.w.repair()
		l.drain()
		signal(l.soon)
	}
	l.w.watchSpace()
	l.putDown()
}

// signOff signs what was written since the last checkpoint, and looks after the logs that ran beside this one.
func (l *Log) signOff() {
	l.pen.Lock()
	l.linkEnded()
	if l.w.checkpoint() == nil && !l.w.idle() {
		signal(l.soon)
	}
	l.putDown()
}
