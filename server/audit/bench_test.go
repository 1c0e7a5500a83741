package audit

import (
	"context"
	"fmt"
	"testing"
)

// BenchmarkWriters is how many records a second many writers get into the log: those of streams, which are handed to
// the system, and denials and the like, which are on the disk before Append returns.
func BenchmarkWriters(b *testing.B) {
	stream := Record{Event: EventStreamOpen, Actor: ada(), Kind: "tcp", Target: "wiki", Service: "wiki", Address: "10.0.0.1:8080", Rule: "staff", Policy: "sha256:00"}
	synced := stream
	synced.Event = EventIssued
	for _, r := range []Record{stream, synced} {
		for _, writers := range []int{1, 8, 64, 512} {
			b.Run(fmt.Sprintf("%s/%d", r.Event, writers), func(b *testing.B) {
				l := open(b, Config{Dir: b.TempDir(), MinFree: -1})
				b.ReportAllocs()
				b.SetParallelism(max(1, writers/2))
				b.RunParallel(func(pb *testing.PB) {
					own := r
					for pb.Next() {
						if _, err := l.Append(context.Background(), own); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}

// BenchmarkVerify is how many records a second are verified, and what memory that takes at most.
func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	l := open(b, Config{Dir: dir, MinFree: -1})
	r := Record{Event: EventStreamOpen, Actor: ada(), Kind: "tcp", Target: "wiki", Service: "wiki", Address: "10.0.0.1:8080", Rule: "staff", Policy: "sha256:00"}
	const records = 100_000
	for range records {
		mustAppend(b, l, r)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		whole(b, dir)
	}
	b.ReportMetric(records*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
