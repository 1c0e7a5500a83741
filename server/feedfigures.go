package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-vpn/culvert/server/audit"
)

// feedFigures tells how the index and the exports of the audit log fare. It is a
// prometheus.Collector.
type feedFigures struct {
	feeds            *audit.Feeds
	failing, records *prometheus.Desc
}

func newFeedFigures(feeds *audit.Feeds) *feedFigures {
	label := []string{"feed"}
	return &feedFigures{
		feeds:   feeds,
		failing: prometheus.NewDesc("culvert_audit_feed_failing", "1 while the audit log's index or an export does not go on.", label, nil),
		records: prometheus.NewDesc("culvert_audit_feed_records_total", "Audit records that were indexed or exported.", label, nil),
	}
}

// Describe implements prometheus.Collector.
func (f *feedFigures) Describe(out chan<- *prometheus.Desc) {
	out <- f.failing
	out <- f.records
}

// Collect implements prometheus.Collector.
func (f *feedFigures) Collect(out chan<- prometheus.Metric) {
	for _, feed := range f.feeds.Status() {
		out <- prometheus.MustNewConstMetric(f.failing, prometheus.GaugeValue, oneIf(feed.Err != nil), feed.Name)
		out <- prometheus.MustNewConstMetric(f.records, prometheus.CounterValue, float64(feed.Sent), feed.Name)
	}
}
