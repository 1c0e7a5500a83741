package server

import (
	"context"
	"fmt"

	"github.com/culvert-vpn/culvert/server/audit"
)

// A DrainStep is a step of the drain that ran out of time or failed.
type DrainStep int

// The steps, in their order; the exit code is 10 more.
const (
	StepStreams DrainStep = 1 + iota // streams were still open at the deadline and were cut
	StepAudit                        // the audit log could not be closed
	StepStore                        // the database could not be closed
)

func (s DrainStep) String() string {
	switch s {
	case StepStreams:
		return "waiting for open streams"
	case StepAudit:
		return "closing the audit log"
	case StepStore:
		return "closing the database"
	default:
		return fmt.Sprintf("step %d", int(s))
	}
}

// A DrainError says that the gateway has stopped, but not as it should have.
type DrainError struct {
	Step DrainStep // the first that went wrong
	Err  error
}

func (e *DrainError) Error() string {
	return fmt.Sprintf("stopped, but %s went wrong: %v", e.Step, e.Err)
}

func (e *DrainError) Unwrap() error { return e.Err }

// drainError is nil when err is.
func drainError(step DrainStep, err error) error {
	if err == nil {
		return nil
	}
	return &DrainError{Step: step, Err: err}
}

// drain stops in order. life is the context of the connections.
func (s *Server) drain(life context.Context) error {
	s.draining.Store(true)
	s.metrics.draining.Set(1)
	s.health.forget()
	ctx, cancel := context.WithCancel(life)
	defer cancel()
	go func() {
		select {
		case <-s.hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.log.Info("draining: not ready any more", "delay", s.cfg.DrainDelay)
	sleep(ctx, s.cfg.DrainDelay)
	if err := s.front.stop(); err != nil {
		s.log.Warn("cannot close the listener", "error", err)
	}
	s.log.Info("draining: no new connections", "drain_timeout", s.cfg.DrainTimeout)
	err := s.drainStreams(ctx)
	s.closeConnections()
	s.log.Info("draining: closing the audit log and the database")
	s.record(life, audit.Record{Event: audit.EventGatewayStop, Detail: "drained"})
	return err
}

// drainStreams tells the clients and waits for their streams.
func (s *Server) drainStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	err := s.gateway.Shutdown(ctx)
	if err == nil {
		return nil
	}
	s.log.Warn("draining: streams were still open at the deadline and were cut", "error", err)
	return drainError(StepStreams, err)
}

// closeConnections ends HTTPS and the metrics, and waits for what is left of
// the one port.
func (s *Server) closeConnections() {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	if err := s.web.shutdown(ctx); err != nil {
		s.log.Warn("draining: HTTPS requests were cut", "error", err)
	}
	s.front.finish(ctx)
	if s.metricsServer != nil {
		_ = s.metricsServer.Shutdown(ctx)
		_ = s.metricsServer.Close()
	}
}
