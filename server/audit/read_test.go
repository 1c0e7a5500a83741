package audit

// eachRecord calls each for every record in dir, log after log in the order of their starts, and stops at its first
// error. A record that stands twice, as after a failed sync, is given once; lines that cannot be read are passed over.
func eachRecord(dir string, each func(log string, r *Record) error) error {
	logs, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, l := range logs {
		var last uint64
		if _, err := l.scan(func(_ int, ln *line) error {
			if ln.seq <= last {
				return nil
			}
			r, err := ln.decode()
			if err != nil {
				return nil
			}
			last = ln.seq
			return each(l.id, &r)
		}); err != nil {
			return err
		}
	}
	return nil
}
