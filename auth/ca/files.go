package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/culvert-vpn/culvert/internal/durable"
)

const (
	maxFile  = 64 << 10
	maxRoots = 8

	keyBlock  = "PRIVATE KEY" // PKCS #8, RFC 5208
	certBlock = "CERTIFICATE"
	csrBlock  = "CERTIFICATE REQUEST"
)

// writeKey and writeCerts never replace a file: durable.CreateFile fails where there is one.
func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	return createFile(path, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
}

func writeCerts(path string, certs ...*x509.Certificate) error {
	return createFile(path, encodeCerts(certs...))
}

func createFile(path string, data []byte) error {
	err := durable.CreateFile(path, data, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	return err
}

func encodeCerts(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, cert := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: cert.Raw})...)
	}
	return out
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := durable.ReadPrivate(path, maxFile)
	if err != nil {
		return nil, err
	}
	ders, err := decodePEM(data, keyBlock, 1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(ders[0])
	if err != nil {
		return nil, fmt.Errorf("%s: not a PKCS #8 private key", path) // the parser's words could quote the key
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s: not an ECDSA P-256 key", path)
	}
	return ec, nil
}

func readCert(path string) (*x509.Certificate, error) {
	certs, err := readCerts(path, 1)
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

func readRoots(path string) ([]*x509.Certificate, error) {
	roots, err := readCerts(path, maxRoots)
	if err != nil {
		return nil, err
	}
	for i, root := range roots {
		if err := checkRoot(root); err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, i+1, err)
		}
		if root.PermittedURIDomains[0] != roots[0].PermittedURIDomains[0] {
			return nil, fmt.Errorf("%s: roots of two trust domains", path)
		}
	}
	return roots, nil
}

func readCerts(path string, limit int) ([]*x509.Certificate, error) {
	if err := checkNotWritable(path); err != nil {
		return nil, err
	}
	data, err := durable.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(data, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

// checkNotWritable refuses certificates that others could replace. Anyone may read them, and an operator who
// copies one has it with mode 0644.
func checkNotWritable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: not a regular file: %w", path, durable.ErrNotPrivate)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s: mode %04o lets others write to it (chmod 600 it): %w", path, info.Mode().Perm(), durable.ErrNotPrivate)
	}
	return nil
}

func parseCerts(data []byte, limit int) ([]*x509.Certificate, error) {
	ders, err := decodePEM(data, certBlock, limit)
	if err != nil {
		return nil, err
	}
	certs := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
	}
	return certs, nil
}

// decodePEM returns 1 to limit blocks of one kind. Unlike pem.Decode it refuses text that is no block, because
// a file cut short or overwritten in part must not pass for a shorter one.
func decodePEM(data []byte, kind string, limit int) ([][]byte, error) {
	var ders [][]byte
	rest := bytes.TrimSpace(data)
	if len(rest) == 0 {
		return nil, errors.New("the file is empty")
	}
	for len(rest) > 0 {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN "+kind+"-----")) {
			return nil, fmt.Errorf("corrupt: something else than a PEM block %q", kind)
		}
		block, after := pem.Decode(rest)
		if block == nil || block.Type != kind {
			return nil, fmt.Errorf("corrupt: a PEM block %q that does not decode", kind)
		}
		ders = append(ders, block.Bytes)
		if len(ders) > limit {
			return nil, fmt.Errorf("more than %d PEM blocks", limit)
		}
		rest = bytes.TrimSpace(after)
	}
	return ders, nil
}
