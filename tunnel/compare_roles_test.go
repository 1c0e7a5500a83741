package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// roleEnv makes the test binary one end of a way through which BenchmarkCompare measures. The role ends when its stdin does.
const roleEnv = "CULVERT_COMPARE_ROLE"

func runRole(role string) error {
	conf, err := roleTLS(os.Getenv("CULVERT_COMPARE_CERTS"))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	next := os.Getenv("CULVERT_COMPARE_NEXT")
	var serve func(*net.TCPConn)
	switch role {
	case "tls-client":
		serve = func(conn *net.TCPConn) { plainClient(conn, conf, next) }
	case "tls-gateway":
		serve = func(conn *net.TCPConn) { plainGateway(conn, conf, next) }
	case "culvert-client":
		serve, err = culvertClient(conf, next)
	case "culvert-gateway":
		serve = func(conn *net.TCPConn) { culvertGateway(conn, conf, next) }
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		return err
	}
	if dir := os.Getenv("CULVERT_COMPARE_PROFILES"); dir != "" {
		f, err := os.Create(filepath.Join(dir, role+".prof"))
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn.(*net.TCPConn))
		}
	}()
	fmt.Println(ln.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func roleTLS(dir string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool, ClientCAs: pool,
		NextProtos: []string{wire.ALPN}, ServerName: "gateway.test", ClientAuth: tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
	}, nil
}

func plainClient(conn *net.TCPConn, conf *tls.Config, next string) {
	far, err := tls.Dial("tcp", next, conf)
	if err != nil {
		conn.Close()
		return
	}
	plainCopy(conn, far)
}

func plainGateway(conn *net.TCPConn, conf *tls.Config, next string) {
	near := tls.Server(conn, conf)
	if err := near.Handshake(); err != nil {
		conn.Close()
		return
	}
	far, err := net.Dial("tcp", next)
	if err != nil {
		near.Close()
		return
	}
	plainCopy(far.(*net.TCPConn), near)
}

// plainCopy is what a simple and correct proxy does: io.Copy both ways, and half-closes.
func plainCopy(plain *net.TCPConn, secured *tls.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(secured, plain)
		secured.CloseWrite()
	})
	io.Copy(plain, secured)
	plain.CloseWrite()
	wg.Wait()
	plain.Close()
	secured.Close()
}

func culvertClient(conf *tls.Config, next string) (func(*net.TCPConn), error) {
	raw, err := net.Dial("tcp", next)
	if err != nil {
		return nil, err
	}
	limits := Limits{MaxStreams: 4096}
	s, err := Client(context.Background(), raw, conf, ClientConfig{Limits: limits})
	if err != nil {
		return nil, err
	}
	return func(conn *net.TCPConn) {
		st, err := s.Open(context.Background(), echoTarget, OpenOptions{})
		if err != nil {
			conn.Close()
			return
		}
		relay.Copy(context.Background(), relay.TCP(conn), st, relay.Options{})
	}, nil
}

func culvertGateway(conn *net.TCPConn, conf *tls.Config, next string) {
	conf = conf.Clone()
	conf.DynamicRecordSizingDisabled = true
	sock := NewSocket(conn)
	tc := tls.Server(sock, conf)
	if err := tc.Handshake(); err != nil {
		sock.Close()
		return
	}
	s, err := Server(context.Background(), sock, tc, ServerConfig{Admit: admitAll, Limits: Limits{MaxStreams: 4096}})
	if err != nil {
		return
	}
	for {
		n, err := s.Accept(context.Background())
		if err != nil {
			return
		}
		go func() {
			far, err := net.Dial("tcp", next)
			if err != nil {
				n.Reject(&wire.Refusal{Code: wire.CodeUnreachable})
				return
			}
			st, err := n.Accept("bench")
			if err != nil {
				far.Close()
				return
			}
			relay.Copy(context.Background(), st, relay.TCP(far.(*net.TCPConn)), relay.Options{})
		}()
	}
}
