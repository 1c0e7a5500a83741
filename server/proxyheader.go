package server

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// The PROXY protocol, version 2, as a balancer speaks it: "The PROXY protocol,
// Versions 1 & 2", section 2.2. Twelve fixed bytes, version and command, family,
// and the length of what follows.
const (
	proxySignature  = "\r\n\r\n\x00\r\nQUIT\n"
	proxyFixed      = 16
	proxyMaxHeader  = 4096 // with its TLVs; the addresses take 36
	proxyHeaderTime = 5 * time.Second
)

// A proxyTrust says which peers are balancers, whose word about where a
// connection comes from counts. From others the header is no header: the bytes
// reach TLS, which refuses them.
type proxyTrust []netip.Prefix

// parseProxyTrust reads addresses and networks.
func parseProxyTrust(list []string) (proxyTrust, error) {
	var trust proxyTrust
	for _, text := range list {
		if addr, err := netip.ParseAddr(text); err == nil {
			trust = append(trust, netip.PrefixFrom(addr.Unmap().WithZone(""), addr.Unmap().BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a network, such as 10.0.0.5 or 10.0.0.0/28", text)
		}
		if prefix.Bits() == 0 {
			return nil, fmt.Errorf("%q is everybody: whoever connects could then say that they come from any address", text)
		}
		trust = append(trust, prefix.Masked())
	}
	return trust, nil
}

func (t proxyTrust) includes(peer net.Addr) bool {
	at, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	for _, prefix := range t {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// readProxyHeader reads exactly the header and returns whom the balancer speaks
// for: conn's own peer where it speaks for itself (a health check). Nothing behind
// the header is read, so that conn can be used as it is.
func readProxyHeader(conn net.Conn) (net.Addr, error) {
	if err := conn.SetReadDeadline(time.Now().Add(proxyHeaderTime)); err != nil {
		return nil, err
	}
	raw := make([]byte, proxyFixed)
	if _, err := io.ReadFull(conn, raw); err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	if string(raw[:len(proxySignature)]) != proxySignature {
		return nil, errors.New("the connection does not begin with a PROXY protocol header of version 2")
	}
	rest := int(binary.BigEndian.Uint16(raw[14:]))
	if proxyFixed+rest > proxyMaxHeader {
		return nil, fmt.Errorf("the PROXY header has %d bytes, and %d are allowed", proxyFixed+rest, proxyMaxHeader)
	}
	raw = append(raw, make([]byte, rest)...)
	if _, err := io.ReadFull(conn, raw[proxyFixed:]); err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return proxySource(raw, conn.RemoteAddr())
}

func proxySource(raw []byte, peer net.Addr) (net.Addr, error) {
	header, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	if header.Command.IsLocal() {
		return peer, nil
	}
	source, ok := header.SourceAddr.(*net.TCPAddr)
	if !ok || len(source.IP) == 0 {
		return nil, fmt.Errorf("the PROXY header names no TCP address (%v)", header.TransportProtocol)
	}
	return source, nil
}
