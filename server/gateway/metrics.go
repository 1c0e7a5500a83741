package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-vpn/culvert/server/session"
)

// Metrics are the data path's figures. It is a prometheus.Collector; create it with NewMetrics.
type Metrics struct {
	decisions   *prometheus.CounterVec
	refused     *prometheus.CounterVec
	dials       *prometheus.HistogramVec
	decide      prometheus.Histogram
	cut         *prometheus.CounterVec
	renewals    *prometheus.CounterVec
	auditErrors prometheus.Counter
	panics      prometheus.Counter
	stepUps     prometheus.Counter
	live        []prometheus.Collector
}

var _ prometheus.Collector = (*Metrics)(nil)

// NewMetrics returns the metrics of a gateway with that register of sessions.
func NewMetrics(r *session.Registry) *Metrics {
	m := &Metrics{
		decisions: counter("culvert_stream_decisions_total", "Requests to open a stream by the code of the reply.", "code", "kind"),
		refused:   counter("culvert_sessions_refused_total", "Tunnel connections refused after the handshake, by code.", "code"),
		cut:       counter("culvert_streams_ended_total", "Streams by how they ended.", "end"),
		renewals:  counter("culvert_renewals_total", "Renewed certificates presented on live connections.", "result"),
		dials: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "culvert_dial_seconds", Help: "Time to resolve and dial a service, by the code of the outcome.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"code"}),
		decide: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "culvert_decision_seconds", Help: "Time to decide a stream.",
			Buckets: []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 1e-3, 1e-2},
		}),
		auditErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "culvert_stream_audit_errors_total", Help: "Records of the data path that could not be written.",
		}),
	}
	m.panics = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "culvert_tunnel_panics_total", Help: "Panics that ended one tunnel connection; each is a bug to report.",
	})
	m.stepUps = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "culvert_step_up_waits_total", Help: "Streams that waited for a fresh login.",
	})
	m.live = liveMetrics(r)
	return m
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// liveMetrics are read from the register at every scrape.
func liveMetrics(r *session.Registry) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	total := func(direction string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "culvert_stream_bytes_total", Help: "Payload of all streams, open ones included.",
			ConstLabels: prometheus.Labels{"direction": direction},
		}, value)
	}
	return []prometheus.Collector{
		gauge("culvert_sessions", "Tunnel connections.", func() float64 { n, _ := r.Counts(); return float64(n) }),
		gauge("culvert_streams", "Open streams.", func() float64 { _, n := r.Counts(); return float64(n) }),
		total("to_service", func() float64 { in, _ := r.Bytes(); return float64(in) }),
		total("to_client", func() float64 { _, out := r.Bytes(); return float64(out) }),
	}
}

func (m *Metrics) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{m.decisions, m.refused, m.cut, m.renewals, m.dials, m.decide, m.auditErrors, m.panics, m.stepUps}, m.live...)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}
