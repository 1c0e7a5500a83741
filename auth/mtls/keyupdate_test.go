package mtls

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// Class: KeyUpdate flood (Go CVE-2026-32283): endless key updates, asking for answers that nobody reads or not. That
// connection dies, in bounded time; its neighbour does not notice.
func TestThreatKeyUpdateFlood(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	neighbour := dialOpen(t, g, w.config(t, w.person(t, "neighbour")))
	for name, request := range map[string]byte{"updates": 0, "updates that ask for one": 1} {
		t.Run(name, func(t *testing.T) { flood(t, w, g, request) })
		echo(t, neighbour)
		welcome(t, w, g)
	}
}

func flood(t *testing.T, w *world, g *gateway, request byte) {
	var log bytes.Buffer
	config := w.config(t, w.person(t, "flooder"))
	config.KeyLogWriter = &log
	conn := dialOpen(t, g, config)
	writer := takeOver(t, conn.ConnectionState().CipherSuite, log.String())
	raw := conn.NetConn()
	must(t, raw.SetDeadline(time.Now().Add(20*time.Second)))
	// One update is fine. This also shows that the records are good ones.
	_, err := raw.Write(writer.keyUpdate(t, request))
	must(t, err)
	_, err = raw.Write(writer.record(t, []byte("ping"), 23))
	must(t, err)
	if _, err := conn.Read(make([]byte, 4)); err != nil {
		t.Fatalf("after one key update: %v", err)
	}
	_, err = raw.Write(writer.keyUpdate(t, request)) // sequence numbers begin again
	must(t, err)
	sent := 0
	for ; sent < 1_000_000; sent++ {
		if _, err := raw.Write(writer.keyUpdate(t, request)); err != nil {
			if err, ok := err.(net.Error); ok && err.Timeout() {
				t.Fatalf("still connected, or hanging, after %d key updates", sent)
			}
			break
		}
	}
	if sent == 1_000_000 {
		t.Error("a million key updates did no harm to their connection")
	}
}

// dialOpen returns an established tunnel whose greeting was read.
func dialOpen(t *testing.T, g *gateway, config *tls.Config) *tls.Conn {
	t.Helper()
	raw, err := net.DialTimeout("tcp", g.addr, 10*time.Second)
	must(t, err)
	conn := tls.Client(raw, config)
	t.Cleanup(func() { raw.Close() })
	must(t, conn.SetDeadline(time.Now().Add(60*time.Second)))
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "tunnel ") {
		t.Fatalf("greeted with %q, %v", line, err)
	}
	return conn
}

func echo(t *testing.T, conn *tls.Conn) {
	t.Helper()
	buf := make([]byte, 4)
	_, err := conn.Write([]byte("ping"))
	must(t, err)
	if _, err := conn.Read(buf); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
}

// recordWriter writes TLS 1.3 records with a client's traffic secret, as crypto/tls has no way to ask it for key
// updates (RFC 8446, sections 5.2, 7.2 and 7.3).
type recordWriter struct {
	hash     func() hash.Hash
	keyLen   int
	secret   []byte
	sequence byte
}

// takeOver reads the secret from the key log. The client has sent no application data yet, so that its sequence
// number is 0, as it is after every update.
func takeOver(t *testing.T, suite uint16, keyLog string) *recordWriter {
	t.Helper()
	w := &recordWriter{hash: sha256.New, keyLen: 16}
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
	case tls.TLS_AES_256_GCM_SHA384:
		w.hash, w.keyLen = sha512.New384, 32
	default:
		testenv.Missing(t, "this machine negotiates %s; the test knows AES-GCM only", tls.CipherSuiteName(suite))
	}
	_, line, _ := strings.Cut(keyLog, "CLIENT_TRAFFIC_SECRET_0 ")
	_, text, _ := strings.Cut(strings.SplitN(line, "\n", 2)[0], " ")
	secret, err := hex.DecodeString(text)
	must(t, err)
	w.secret = secret
	return w
}

// keyUpdate returns one record with a KeyUpdate message, and moves on to the next secret.
func (w *recordWriter) keyUpdate(t *testing.T, request byte) []byte {
	t.Helper()
	const keyUpdateMessage, handshake = 24, 22
	record := w.record(t, []byte{keyUpdateMessage, 0, 0, 1, request}, handshake)
	w.secret, w.sequence = w.expand(t, "traffic upd", w.hash().Size()), 0
	return record
}

func (w *recordWriter) record(t *testing.T, plain []byte, contentType byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(w.expand(t, "key", w.keyLen))
	must(t, err)
	aead, err := cipher.NewGCM(block)
	must(t, err)
	nonce := w.expand(t, "iv", aead.NonceSize())
	nonce[len(nonce)-1] ^= w.sequence
	w.sequence++
	header := []byte{23, 3, 3, 0, byte(len(plain) + 1 + aead.Overhead())}
	return aead.Seal(header, nonce, append(plain, contentType), header)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
func (w *recordWriter) expand(t *testing.T, label string, n int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(append(info, label...), 0)
	out, err := hkdf.Expand(w.hash, w.secret, string(info), n)
	must(t, err)
	return out
}
