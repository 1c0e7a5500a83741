package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"sync"
	"time"
)

// renewing holds a certificate and makes a new one, with a new key, when two thirds of its life are over. It
// asks the wall clock at each use and needs no goroutine: timers stand still while a machine sleeps.
type renewing struct {
	issue func() (*tls.Certificate, error)

	mu      sync.Mutex
	current *tls.Certificate
}

// get returns the current certificate. A renewal that fails is tried again at the next use; the old certificate
// serves until it ends.
func (r *renewing) get() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.current != nil && !r.dueLocked(now) {
		return r.current, nil
	}
	fresh, err := r.issue()
	if err != nil {
		if r.current != nil && now.Before(r.current.Leaf.NotAfter) {
			return r.current, nil
		}
		return nil, err
	}
	r.current = fresh
	return fresh, nil
}

// dueLocked also holds when the clock was set back to before the certificate begins.
func (r *renewing) dueLocked(now time.Time) bool {
	leaf := r.current.Leaf
	due := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
	return now.Before(leaf.NotBefore) || !now.Before(due)
}

// GatewayLeaf is a gateway's own server certificate for the tunnel, which renews itself. Its key never leaves
// memory. It is safe for concurrent use.
type GatewayLeaf struct{ r renewing }

// NewGatewayLeaf returns the leaf of the gateway that a belongs to. It is issued at its first use.
func NewGatewayLeaf(a *Authority) *GatewayLeaf {
	return &GatewayLeaf{r: renewing{issue: func() (*tls.Certificate, error) {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		issued, err := a.IssueGateway(context.Background(), &key.PublicKey)
		if err != nil {
			return nil, err
		}
		return issued.tls(key), nil
	}}}
}

// Certificate returns the certificate to present now: the leaf, its key and the issuing certificate.
func (l *GatewayLeaf) Certificate() (*tls.Certificate, error) { return l.r.get() }

func (i *Issued) tls(key *ecdsa.PrivateKey) *tls.Certificate {
	return &tls.Certificate{Certificate: i.Chain, PrivateKey: key, Leaf: i.Leaf}
}
