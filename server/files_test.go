package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func newRequest(t *testing.T, path string) *http.Request {
	t.Helper()
	return httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
}

// pair is a self-signed certificate for 127.0.0.1 with a serial number, as PEM.
func pair(t *testing.T, serial int64, notAfter time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: notAfter.Add(-48 * time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// served is the serial number of the certificate that HTTPS answers with.
func served(t *testing.T, r *running) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestCertificateFilesAreReloadedAndBrokenOnesAreNot(t *testing.T) {
	i := newInstallation(t, nil)
	cert, key := pair(t, 1, time.Now().Add(time.Hour))
	i.cfg.TLS = TLSConfig{Mode: "files", Certificate: filepath.Join(i.dir, "tls.crt"), Key: filepath.Join(i.dir, "tls.key")}
	writeFile(t, i.cfg.TLS.Certificate, cert)
	writeFile(t, i.cfg.TLS.Key, key)
	r := i.serve(Options{})
	if got := served(t, r); got != 1 {
		t.Fatalf("certificate %d is served", got)
	}
	// A renewal by a tool that replaces both files; nobody sends a signal.
	cert2, key2 := pair(t, 2, time.Now().Add(time.Hour))
	writeFile(t, i.cfg.TLS.Key, key2)
	writeFile(t, i.cfg.TLS.Certificate, cert2)
	eventually(t, "the second certificate is served", func() bool { return served(t, r) == 2 })

	expired, expiredKey := pair(t, 3, time.Now().Add(-time.Hour))
	for name, files := range map[string][2]string{
		"key of another": {cert2, key}, "no certificate": {"", key2}, "no key": {cert2, "nothing"}, "expired": {expired, expiredKey},
	} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, i.cfg.TLS.Certificate, files[0])
			writeFile(t, i.cfg.TLS.Key, files[1])
			if err := r.Reload(t.Context()); err == nil {
				t.Error("reloaded")
			}
			if got := served(t, r); got != 2 {
				t.Errorf("certificate %d is served, want the old one", got)
			}
		})
	}
	metrics := get(t, http.DefaultClient, "http://"+r.MetricsAddr().String()+"/metrics")
	if !strings.Contains(metrics, `culvert_reload_alarm{what="certificate"} 1`) {
		t.Error("no alarm in the metrics")
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(auditText(t, i), `"config.refused"`) {
		t.Error("no audit record of the refusal")
	}
}

// A gateway starts with a certificate of another name, and says so in its log;
// the check before the start calls it an error.
func TestCheckFilesComparesTheCertificateWithTheHostname(t *testing.T) {
	i := newInstallation(t, nil)
	cert, key := pair(t, 1, time.Now().Add(time.Hour))
	i.cfg.TLS = TLSConfig{Mode: "files", Certificate: filepath.Join(i.dir, "tls.crt"), Key: filepath.Join(i.dir, "tls.key")}
	writeFile(t, i.cfg.TLS.Certificate, cert)
	writeFile(t, i.cfg.TLS.Key, key)
	if err := CheckFiles(i.cfg); err != nil {
		t.Error(err)
	}
	i.cfg.Hostname = "gateway.example.com"
	if err := CheckFiles(i.cfg); err == nil || !strings.Contains(err.Error(), "does not fit the hostname") {
		t.Errorf("CheckFiles: %v", err)
	}
}

// watched counts the changes that a fileWatch reports.
func watched(t *testing.T, files ...string) <-chan struct{} {
	t.Helper()
	changes := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	w := newFileWatch(testenv.Logger(t), files...)
	go func() {
		defer close(done)
		w.run(ctx, func() { changes <- struct{}{} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return changes
}

func TestWatchSeesEveryWayToReplaceAFile(t *testing.T) {
	rename := func(t *testing.T, path string) {
		writeFile(t, path+".new", "renamed")
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(t *testing.T, path string){
		"written in place": func(t *testing.T, path string) { writeFile(t, path, "new") },
		"renamed over":     rename,
		"an editor's dance": func(t *testing.T, path string) { // vim: backup aside, new file, backup gone
			if err := os.Rename(path, path+"~"); err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, "edited")
			if err := os.Remove(path + "~"); err != nil {
				t.Fatal(err)
			}
		},
		"removed": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy.yaml")
			writeFile(t, path, "old")
			changes := watched(t, path)
			change(t, path)
			<-changes
		})
	}
}

// Kubernetes mounts a folder ..data that is a symbolic link, and turns it.
func TestWatchSeesASymbolicLinkTurn(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"..v1", "..v2"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, version, "policy.yaml"), version)
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..v1", "..data")
	link(filepath.Join("..data", "policy.yaml"), "policy.yaml")
	changes := watched(t, filepath.Join(dir, "policy.yaml"))
	link("..v2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	<-changes
}

func TestInitFilesNeverOverwrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gw")
	opts := InitOptions{Hostname: "vpn.corp.example", Listen: ":8443", Issuer: "https://idp.example.com/", ClientID: "culvert"}
	first, err := InitFiles(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	for path, mode := range before.modes {
		want := os.FileMode(0o600)
		if mode.IsDir() {
			want = 0o700
		}
		if mode.Perm() != want {
			t.Errorf("%s has mode %o", path, mode.Perm())
		}
	}
	second, err := InitFiles(dir, InitOptions{Hostname: "other.example"})
	if err != nil {
		t.Fatal(err)
	}
	for n := range first {
		if !first[n].Created || second[n].Created {
			t.Errorf("%s: created %v, then %v", first[n].Path, first[n].Created, second[n].Created)
		}
	}
	if after := snapshot(t, dir); after.text != before.text {
		t.Error("the second run changed something")
	}
	// What is missing is filled in, the rest stays.
	if err := os.Remove(filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	third, err := InitFiles(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range third {
		if f.Created != (f.What == "policy") {
			t.Errorf("%s: created %v", f.Path, f.Created)
		}
	}
	cfg, err := LoadConfig(filepath.Join(dir, ConfigFile), nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TrustDomain != "corp.example" || cfg.Providers[0].Issuer != "https://idp.example.com/" {
		t.Errorf("trust domain %q, providers %+v", cfg.TrustDomain, cfg.Providers)
	}
	if err := CheckFiles(cfg); err != nil {
		t.Error(err)
	}
}

// Threat class: default or shared keys (NetBird CVE-2025-10678).
func TestThreatTwoInstallationsShareNoKey(t *testing.T) {
	a, b := newInstallation(t, nil), newInstallation(t, nil)
	for _, file := range []string{"ca/root.key", "ca/issuing.key", "state/https/https-ca.key"} {
		one, err := os.ReadFile(filepath.Join(a.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(b.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if string(one) == string(two) {
			t.Errorf("both have the same %s", file)
		}
	}
}

type folder struct {
	text  string
	modes map[string]os.FileMode
}

func snapshot(t *testing.T, dir string) folder {
	t.Helper()
	s := folder{modes: make(map[string]os.FileMode)}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		s.modes[path] = info.Mode()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s.text += path + "\n" + string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestInitRefusesWhatWouldNotStart(t *testing.T) {
	for name, opts := range map[string]InitOptions{
		"hostname":       {Hostname: "Not A Name"},
		"issuer alone":   {Hostname: "a.example", Issuer: "https://idp.example.com/"},
		"bad issuer":     {Hostname: "a.example", Issuer: "ftp://x", ClientID: "c"},
		"metrics":        {Hostname: "a.example", MetricsListen: "0.0.0.0:1"},
		"yaml in a name": {Hostname: "a.example\nlimits: {}"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "gw")
			if _, err := InitFiles(dir, opts); err == nil {
				t.Error("accepted")
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Error("something was written")
			}
		})
	}
}

func TestAskReady(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"over metrics":  nil,
		"over the port": func(cfg *Config) { cfg.Metrics.Listen = "" },
	} {
		t.Run(name, func(t *testing.T) {
			i := everything(t, edit)
			if _, err := AskReady(t.Context(), i.cfg); !errors.Is(err, ErrUnreachable) {
				t.Errorf("nobody runs: %v", err)
			}
			r := i.serve(Options{})
			eventually(t, "the gateway runs", func() bool { _, err := ReadRunInfo(i.cfg.StateDir); return err == nil })
			ready, err := AskReady(t.Context(), i.cfg)
			if err != nil || !ready.Ready {
				t.Errorf("ready %+v, %v", ready, err)
			}
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
