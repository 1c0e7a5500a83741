// Package ca is Culvert's certificate authority: it makes an installation's root and each gateway's issuing
// key, and issues short-lived certificates to people and to the gateway itself.
//
// An installation has one root. Each gateway has an issuing key of its own, certified by the root, so that
// no two gateways share a key and the root key may be taken offline: a gateway needs root.crt, issuing.key
// and issuing.crt, not root.key. The four files lie in one folder, mode 0600:
//
//	root.key     signs issuing certificates, nothing else
//	root.crt     what clients and gateways trust; further roots may follow the first
//	issuing.key  signs this gateway's client certificates and its own server certificate
//	issuing.crt  the root's certificate for it
//
// [Init] makes them for the first gateway. For another one, [Request] makes a key and a request there, [Sign]
// answers where the root key is, and [Install] puts the answer in place. [Load] refuses whatever is missing,
// empty, corrupt, does not belong together or is readable by others; there is no fall-back to other roots.
//
// [HTTPS] is another authority with another key, for the certificate that browsers and enrolment see when
// there is neither ACME nor a certificate from a file.
//
// The package does not decide who gets a certificate, keeps no inventory and revokes nothing: that is
// server/enroll's and server/store's work. docs/certificate.md lists every field of every certificate.
package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/durable"
)

// ErrExists is returned where a new key or certificate would take the place of an old one.
var ErrExists = errors.New("a certificate authority is already there; nothing was changed")

const (
	rootKeyFile     = "root.key"
	rootCertFile    = "root.crt"
	issuingKeyFile  = "issuing.key"
	issuingCertFile = "issuing.crt"
)

// Options names what [Init] and [Request] make. Both fields are required.
type Options struct {
	TrustDomain auth.TrustDomain // of the installation, for good
	GatewayID   auth.GatewayID   // of this gateway
}

func (o Options) validate() error {
	if _, err := auth.ParseTrustDomain(string(o.TrustDomain)); err != nil {
		return err
	}
	_, err := auth.ParseGatewayID(string(o.GatewayID))
	return err
}

// Init makes the root, this gateway's issuing key and both certificates in dir. dir must be empty or not be
// there; otherwise nothing is changed and [ErrExists] is returned. The folder appears with all four files or
// not at all.
func Init(dir string, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	return createDir(dir, func(tmp string) error { return initInto(tmp, o) })
}

func initInto(dir string, o Options) error {
	rootKey, err := newKey()
	if err != nil {
		return err
	}
	issuingKey, err := newKey()
	if err != nil {
		return err
	}
	root, err := signRoot(rootKey, o.TrustDomain, time.Now())
	if err != nil {
		return err
	}
	issuing, err := signIssuing(root, rootKey, &issuingKey.PublicKey, o, time.Now())
	if err != nil {
		return err
	}
	return errors.Join(
		writeKey(filepath.Join(dir, rootKeyFile), rootKey),
		writeCerts(filepath.Join(dir, rootCertFile), root),
		writeKey(filepath.Join(dir, issuingKeyFile), issuingKey),
		writeCerts(filepath.Join(dir, issuingCertFile), issuing),
	)
}

// createDir fills a new folder beside dir and renames it into place, so that a crash leaves no half of an
// authority and two concurrent calls cannot both succeed.
func createDir(dir string, fill func(tmp string) error) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("make directory %s: %w", parent, err)
	}
	tmp, err := os.MkdirTemp(parent, ".ca-new-*") // mode 0700
	if err != nil {
		return fmt.Errorf("make directory in %s: %w", parent, err)
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		return err
	}
	// os.Rename does not replace a folder; os.Remove removes only an empty one.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", dir, ErrExists)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("%s: %w", dir, ErrExists)
	}
	return durable.SyncDir(parent)
}

// Authority issues certificates with one gateway's issuing key. It does not change after [Load] and is safe
// for concurrent use. The zero value issues nothing.
type Authority struct {
	trustDomain auth.TrustDomain
	gateway     auth.GatewayID
	roots       []*x509.Certificate
	issuing     *x509.Certificate
	key         *ecdsa.PrivateKey
	throwaway   *ecdsa.PrivateKey // signs what is linted before it is issued
}

// Load reads the authority in dir. The error names the file and what is wrong with it. root.key need not be
// there; when it is, it must fit root.crt.
func Load(dir string) (*Authority, error) {
	roots, err := readRoots(filepath.Join(dir, rootCertFile))
	if err != nil {
		return nil, err
	}
	issuing, err := readCert(filepath.Join(dir, issuingCertFile))
	if err != nil {
		return nil, err
	}
	key, err := readKey(filepath.Join(dir, issuingKeyFile))
	if err != nil {
		return nil, err
	}
	if err := checkRootKey(dir, roots[0]); err != nil {
		return nil, err
	}
	a := &Authority{roots: roots, issuing: issuing, key: key}
	if a.trustDomain, a.gateway, err = checkIssuing(issuing, roots, time.Now()); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, issuingCertFile), err)
	}
	if !key.PublicKey.Equal(issuing.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to %s", filepath.Join(dir, issuingKeyFile), issuingCertFile)
	}
	a.throwaway, err = newKey()
	return a, err
}

// checkRootKey checks root.key where it is: a folder restored from two backups should say so now and not
// when the next gateway is signed.
func checkRootKey(dir string, root *x509.Certificate) error {
	path := filepath.Join(dir, rootKeyFile)
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(root.PublicKey) {
		return fmt.Errorf("%s does not belong to %s", path, rootCertFile)
	}
	return nil
}

// TrustDomain returns the installation's trust domain, as the issuing certificate has it.
func (a *Authority) TrustDomain() auth.TrustDomain { return a.trustDomain }

// GatewayID returns this gateway's name, as the issuing certificate has it.
func (a *Authority) GatewayID() auth.GatewayID { return a.gateway }

// Roots returns the roots to trust, never none.
func (a *Authority) Roots() []*x509.Certificate { return append([]*x509.Certificate(nil), a.roots...) }

// RootsDER is [Authority.Roots] in the form that enrolment and the tunnel carry.
func (a *Authority) RootsDER() [][]byte {
	ders := make([][]byte, len(a.roots))
	for i, root := range a.roots {
		ders[i] = append([]byte(nil), root.Raw...)
	}
	return ders
}

// Pool returns a new pool of the roots, for verification of the tunnel.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, root := range a.roots {
		pool.AddCert(root)
	}
	return pool
}

// Issuing returns the issuing certificate. After its NotAfter nothing can be issued: warn long before.
func (a *Authority) Issuing() *x509.Certificate { return a.issuing }

// NewSerial returns a serial number of 128 random bits.
func NewSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	return new(big.Int).SetBytes(b[:])
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

// checkContext lets an issuance that nobody waits for any more end before it is signed.
func checkContext(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("issue certificate: %w", context.Cause(ctx))
	}
	return nil
}
