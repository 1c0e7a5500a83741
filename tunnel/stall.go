package tunnel

// StallLimit bounds the streams of a process that do not move: a stalled stream holds a window of memory here and about 4 MiB of the
// kernel's TCP memory, which all programs of a machine share. Beyond the limit, the streams that have stood longest are aborted.
type StallLimit struct{}
