package server

import (
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/culvert-vpn/culvert/internal/buildinfo"
)

// metrics are those of the port and of the process's own affairs; the data path
// and enrolment have theirs, in the same registry.
type metrics struct {
	registry         *prometheus.Registry
	acceptErrors     prometheus.Counter
	refused          *prometheus.CounterVec // by limit
	displaced        prometheus.Counter
	handshakes       *prometheus.CounterVec // by result
	handshakeSeconds prometheus.Histogram
	panics           prometheus.Counter
	reloads          *prometheus.CounterVec // by what, result
	alarm            *prometheus.GaugeVec   // by what: 1 while the last reload failed
	draining         prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		acceptErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "culvert_accept_errors_total", Help: "Failed attempts to accept a connection."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_connections_refused_total", Help: "Connections turned away, by the limit that they met."}, []string{"limit"}),
		displaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "culvert_handshakes_displaced_total", Help: "Unfinished handshakes closed in favour of newer connections."}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_handshakes_total", Help: "TLS handshakes, by result."}, []string{"result"}),
		handshakeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "culvert_handshake_seconds", Help: "Duration of successful TLS handshakes.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10)}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "culvert_panics_total", Help: "Panics that were caught; each is a bug to report."}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_reloads_total", Help: "Reloads of policy, certificate and configuration, by result."}, []string{"what", "result"}),
		alarm: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "culvert_reload_alarm", Help: "1 while something older stays in force because the newest cannot be used."}, []string{"what"}),
		draining: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "culvert_draining", Help: "1 while the gateway is stopping."}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "culvert_build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": buildinfo.Version()}})
	build.Set(1)
	m.registry.MustRegister(m.acceptErrors, m.refused, m.displaced, m.handshakes, m.handshakeSeconds, m.panics,
		m.reloads, m.alarm, m.draining, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// gauge adds a figure that is asked for when metrics are read.
func (m *metrics) gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// reloaded notes the outcome of a reload.
func (m *metrics) reloaded(what string, err error) {
	result, alarm := "ok", 0.0
	if err != nil {
		result, alarm = "failed", 1
	}
	m.reloads.WithLabelValues(what, result).Inc()
	m.alarm.WithLabelValues(what).Set(alarm)
}

// metricsServer serves /metrics and the health paths to this machine. Requests
// must name a loopback host or the listener's own, so that no web page can read
// them through a name that it points here (DNS rebinding).
func metricsServer(m *metrics, h *health, unsafeListen bool) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", serveLive)
	mux.HandleFunc("GET /readyz", h.serveReady)
	var handler http.Handler = mux
	if !unsafeListen {
		handler = loopbackHost(mux)
	}
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
}

func loopbackHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host, _, err := net.SplitHostPort(req.Host)
		if err != nil {
			host = req.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "metrics are served to this machine only, as 127.0.0.1 or localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, req)
	})
}
