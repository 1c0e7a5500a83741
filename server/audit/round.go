package audit

import "errors"

// A round is one sync that several records wait for.
type round struct {
	done chan struct{}
	err  error
}

func newRound() *round { return &round{done: make(chan struct{})} }

// roundFiles are the files of a round, and what is on the disk when it has ended well. A void round proves nothing: an
// earlier one failed, and what it lost was not written again yet.
type roundFiles struct {
	retired []file
	current file
	lines   int // of pending
	bytes   int
	tree    tree
	end     Position // behind its last record
	news    *Checkpoint
	doomed  []string
	void    bool
}

// beginRound takes the files to sync; endRound must follow.
func (w *writer) beginRound() (*round, roundFiles) {
	r := w.next
	w.next = newRound()
	files := roundFiles{
		retired: w.retired, current: w.file, lines: len(w.pending), bytes: w.bytes, void: w.again,
		tree: w.tree.clone(), news: w.news, doomed: w.doomed,
		end: Position{Log: w.id, Segment: w.segment, Offset: w.size, Seq: w.tree.size},
	}
	w.retired, w.news, w.doomed = nil, nil, nil
	return r, files
}

// syncFiles syncs them all, and closes those that nobody writes to any more.
func syncFiles(files roundFiles) error {
	var errs []error
	for _, f := range files.retired {
		errs = append(errs, f.Sync(), f.Close())
	}
	if files.current != nil {
		errs = append(errs, files.current.Sync())
	}
	return errors.Join(errs...)
}

// endRound takes the result of a round in, and reports whether its lines are on the disk.
func (w *writer) endRound(r *round, files roundFiles, err error) bool {
	switch {
	case err != nil:
		w.again = true
		w.giveUp(files.end.Segment - len(files.retired))
		w.retire()
		_ = w.fail(err)
	case files.void:
		err = errVoid
	default:
		w.pending = w.pending[files.lines:]
		w.bytes -= files.bytes
		w.synced = files.tree
		if len(w.pending) == 0 {
			w.pending = nil
		}
	}
	if err != nil {
		w.doomed = append(files.doomed, w.doomed...)
		if w.news == nil {
			w.news = files.news
		}
	}
	r.err = err
	close(r.done)
	return err == nil
}

// errVoid is what waits for a void round gets.
var errVoid = errors.New("an earlier sync failed")
