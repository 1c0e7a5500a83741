package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// BenchmarkCompare measures the tunnel, a plain crypto/tls 1.3 mTLS proxy pair (one connection per stream) and ssh -L side by side, each
// end in a process of its own, over loopback, round by round in turn, and reports medians and their ratios. One command:
//
//	go test ./tunnel -run '^$' -bench Compare -benchtime 1x -v
//
// CULVERT_COMPARE_ROUNDS (default 5) and CULVERT_COMPARE_MIB (default 512) make it longer or shorter, CULVERT_COMPARE_ONLY is a regular
// expression for the figures, and CULVERT_COMPARE_PROFILES a folder for CPU profiles of the four Go processes. docs/performance.md has
// results.
func BenchmarkCompare(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("the comparison reads /proc")
	}
	c := &comparison{b: b, service: benchService(b), rounds: envInt("CULVERT_COMPARE_ROUNDS", 5), mib: envInt("CULVERT_COMPARE_MIB", 512)}
	c.only = regexp.MustCompile(os.Getenv("CULVERT_COMPARE_ONLY"))
	c.systems = []*system{startPair(b, "culvert", c.service), startPair(b, "tls", c.service), startSSH(b, c.service)}
	for range b.N {
		c.run()
	}
	c.report()
}

func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return def
}

// system is one way from a local port to the service.
type system struct {
	name  string
	addr  string // what an application connects to
	roots []int  // the processes of both ends; their children count too
	have  map[string][]float64
}

func (s *system) note(what string, v float64) { s.have[what] = append(s.have[what], v) }

type comparison struct {
	b       *testing.B
	service string
	systems []*system
	rounds  int
	mib     int
	only    *regexp.Regexp
}

const (
	mBulk1  = "bulk, 1 stream (MiB/s)"
	mBulk8  = "bulk, 8 streams (MiB/s)"
	mCPU1   = "CPU, 1 stream (s/GiB)"
	mCPU8   = "CPU, 8 streams (s/GiB)"
	mUp     = "bulk up, 1 stream (MiB/s)"
	mCPUUp  = "CPU up, 1 stream (s/GiB)"
	mRTT    = "one byte there and back, p50 (µs)"
	mFirst  = "new stream to first byte, p50 (µs)"
	mOpens  = "new streams per second"
	mMemory = "memory, 1,000 idle streams, both ends (MiB)"
)

func (c *comparison) run() {
	steps := c.chosen()
	for _, s := range c.systems { // warm
		c.transfer(s, 1, 16<<20, 'D')
	}
	for range c.rounds {
		for _, step := range steps {
			for _, s := range c.systems {
				step(s)
			}
		}
	}
	if c.only.MatchString(mMemory) {
		for _, s := range c.systems {
			c.idle(s)
		}
	}
}

// chosen are the steps of one round.
func (c *comparison) chosen() (steps []func(*system)) {
	for _, step := range []struct {
		name string
		run  func(*system)
	}{
		{mBulk1, c.bulkDown(1, mBulk1, mCPU1)}, {mBulk8, c.bulkDown(8, mBulk8, mCPU8)}, {mUp, c.bulkUp},
		{mRTT, c.roundTrip}, {mFirst, c.firstByte}, {mOpens, c.opens},
	} {
		if c.only.MatchString(step.name) {
			steps = append(steps, step.run)
		}
	}
	return steps
}

// dial opens a stream, and tells the service what to do.
func (c *comparison) dial(s *system, mode byte, n uint64) *net.TCPConn {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		c.b.Fatalf("%s: %v", s.name, err)
	}
	var head [9]byte
	head[0] = mode
	binary.BigEndian.PutUint64(head[1:], n)
	if _, err := conn.Write(head[:]); err != nil {
		c.b.Fatalf("%s: %v", s.name, err)
	}
	return conn.(*net.TCPConn)
}

// transfer moves total bytes over so many streams.
func (c *comparison) transfer(s *system, streams int, total int64, mode byte) {
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			n := total / int64(streams)
			conn := c.dial(s, mode, uint64(n))
			defer conn.Close()
			if mode == 'U' {
				writeN(conn, n)
				n = 1
			}
			buf := make([]byte, 256<<10)
			for got := int64(0); got < n; {
				k, err := conn.Read(buf)
				got += int64(k)
				if err != nil && got < n {
					c.b.Errorf("%s: %d of %d bytes: %v", s.name, got, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (c *comparison) timed(s *system, streams int, mode byte, speed, cpu string) {
	total := int64(c.mib) << 20
	before, start := cpuSeconds(s.roots), time.Now()
	c.transfer(s, streams, total, mode)
	took := time.Since(start).Seconds()
	s.note(speed, float64(c.mib)/took)
	s.note(cpu, (cpuSeconds(s.roots)-before)*1024/float64(c.mib))
}

func (c *comparison) bulkDown(streams int, speed, cpu string) func(*system) {
	return func(s *system) { c.timed(s, streams, 'D', speed, cpu) }
}

func (c *comparison) bulkUp(s *system) { c.timed(s, 1, 'U', mUp, mCPUUp) }

func (c *comparison) roundTrip(s *system) {
	conn := c.dial(s, 'E', 0)
	defer conn.Close()
	s.note(mRTT, median(sample(2000, func() { echo(c.b, conn) })))
}

func (c *comparison) firstByte(s *system) {
	s.note(mFirst, median(sample(200, func() {
		conn := c.dial(s, 'E', 0)
		echo(c.b, conn)
		conn.Close()
	})))
}

func (c *comparison) opens(s *system) {
	const workers, each = 8, 100
	start := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				conn := c.dial(s, 'E', 0)
				echo(c.b, conn)
				conn.Close()
			}
		})
	}
	wg.Wait()
	s.note(mOpens, workers*each/time.Since(start).Seconds())
}

func (c *comparison) idle(s *system) {
	var conns []net.Conn
	for range 1000 {
		conn := c.dial(s, 'E', 0)
		echo(c.b, conn)
		conns = append(conns, conn)
	}
	time.Sleep(3 * time.Second) // this is a measurement: let every collector and allocator come to rest
	s.note(mMemory, rssMiB(s.roots))
	for _, conn := range conns {
		conn.Close()
	}
}

func (c *comparison) report() {
	var out bytes.Buffer
	fmt.Fprintf(&out, "\n%-46s %10s %10s %10s %9s %9s\n", "median of "+strconv.Itoa(c.rounds), "culvert", "plain TLS", "ssh -L", "to TLS", "to ssh")
	for _, m := range []string{mBulk1, mCPU1, mBulk8, mCPU8, mUp, mCPUUp, mRTT, mFirst, mOpens, mMemory} {
		if len(c.systems[0].have[m]) == 0 {
			continue
		}
		v := make([]float64, len(c.systems))
		for i, s := range c.systems {
			v[i] = median(s.have[m])
		}
		fmt.Fprintf(&out, "%-46s %10.2f %10.2f %10.2f %9.2f %9.2f\n", m, v[0], v[1], v[2], v[0]/v[1], v[0]/v[2])
		unit := strings.NewReplacer(" ", "_", ",", "", "(", "", ")", "").Replace(m)
		c.b.ReportMetric(v[0]/v[1], unit+"/tls")
		c.b.ReportMetric(v[0]/v[2], unit+"/ssh")
	}
	c.b.Log(out.String())
}

// BenchmarkIdleSessions reports what idle sessions cost the gateway's process: CULVERT_COMPARE_SESSIONS (default 1,000) of them.
func BenchmarkIdleSessions(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("the measurement reads /proc")
	}
	gateway, addr := startRole(b, "culvert-gateway", writeCertificate(b), "127.0.0.1:1")
	conf, _ := testTLS()
	n := envInt("CULVERT_COMPARE_SESSIONS", 1000)
	var sessions []*Session
	before := rssMiB([]int{gateway})
	for range n {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		s, err := Client(context.Background(), raw, conf, ClientConfig{})
		if err != nil {
			b.Fatal(err)
		}
		sessions = append(sessions, s)
	}
	time.Sleep(2 * pingAfter) // this is a measurement: past the first pings
	used := rssMiB([]int{gateway}) - before
	b.ReportMetric(used*1024/float64(n), "KiB/session")
	b.ReportMetric(used, "MiB")
	cpu := cpuSeconds([]int{gateway})
	time.Sleep(2 * pingAfter)
	b.ReportMetric((cpuSeconds([]int{gateway})-cpu)/(2*pingAfter).Seconds(), "CPUs")
	for _, s := range sessions {
		s.fail(ErrClosed)
	}
}

func echo(b *testing.B, conn net.Conn) {
	var x [1]byte
	if _, err := conn.Write(x[:]); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(conn, x[:]); err != nil {
		b.Fatal(err)
	}
}

// sample returns the times of n calls, in microseconds.
func sample(n int, f func()) []float64 {
	out := make([]float64, n)
	for i := range out {
		start := time.Now()
		f()
		out[i] = float64(time.Since(start).Nanoseconds()) / 1e3
	}
	return out
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func writeN(w io.Writer, n int64) {
	buf := make([]byte, 256<<10)
	for n > 0 {
		k := min(n, int64(len(buf)))
		if _, err := w.Write(buf[:k]); err != nil {
			return
		}
		n -= k
	}
}

// benchService sends, takes or echoes, as the first 9 bytes of a connection say.
func benchService(b testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serveBench(conn)
		}
	}()
	return ln.Addr().String()
}

func serveBench(conn net.Conn) {
	defer conn.Close()
	var head [9]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return
	}
	n := int64(binary.BigEndian.Uint64(head[1:]))
	switch head[0] {
	case 'D':
		writeN(conn, n)
		conn.Read(head[:1]) // until the other end has all
	case 'U':
		buf := make([]byte, 256<<10)
		for got := int64(0); got < n; {
			k, err := conn.Read(buf)
			if err != nil {
				return
			}
			got += int64(k)
		}
		conn.Write(head[:1])
		conn.Read(head[:1])
	default:
		var x [1]byte
		for {
			if _, err := conn.Read(x[:]); err != nil {
				return
			}
			if _, err := conn.Write(x[:]); err != nil {
				return
			}
		}
	}
}

// startPair starts both ends of culvert or of the plain proxy, each this test binary in a role (compare_roles_test.go).
func startPair(b *testing.B, name, service string) *system {
	certs := writeCertificate(b)
	gateway, gatewayAddr := startRole(b, name+"-gateway", certs, service)
	client, clientAddr := startRole(b, name+"-client", certs, gatewayAddr)
	return &system{name: name, addr: clientAddr, roots: []int{gateway, client}, have: map[string][]float64{}}
}

func startRole(b *testing.B, role, certs, next string) (pid int, addr string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role, "CULVERT_COMPARE_CERTS="+certs, "CULVERT_COMPARE_NEXT="+next)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatalf("%s: %v", role, err)
	}
	return cmd.Process.Pid, strings.TrimSpace(line)
}

func writeCertificate(b *testing.B) (dir string) {
	dir = b.TempDir()
	_, conf := testTLS()
	key, err := x509.MarshalECPrivateKey(conf.Certificates[0].PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		b.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: conf.Certificates[0].Certificate[0]},
		"key.pem":  {Type: "EC PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// startSSH starts a private sshd on a loopback port, and ssh -L through it.
func startSSH(b *testing.B, service string) *system {
	sshd, client := testenv.NeedTool(b, "sshd"), testenv.NeedTool(b, "ssh")
	testenv.NeedRoot(b) // sshd wants its privilege separation folder
	dir := b.TempDir()
	hostKey, userKey := writeSSHKey(b, dir, "host"), writeSSHKey(b, dir, "user")
	port, local := freePort(b), freePort(b)
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s.pub\nStrictModes no\nUsePAM no\n"+
		"PermitRootLogin yes\nPidFile none\nPasswordAuthentication no\nMaxSessions 10000\n", port, hostKey, userKey)
	path := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	_ = os.MkdirAll("/run/sshd", 0o755)
	server := exec.Command(sshd, "-D", "-e", "-f", path)
	var log bytes.Buffer
	server.Stderr = &log
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Process.Kill(); server.Wait() })
	waitDial(b, "127.0.0.1:"+port)
	forward := exec.Command(client, "-F", "none", "-N", "-p", port, "-i", userKey, "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ExitOnForwardFailure=yes",
		"-L", "127.0.0.1:"+local+":"+service, "root@127.0.0.1")
	forward.Stderr = os.Stderr
	if err := forward.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { forward.Process.Kill(); forward.Wait() })
	waitDial(b, "127.0.0.1:"+local)
	return &system{name: "ssh", addr: "127.0.0.1:" + local, roots: []int{server.Process.Pid, forward.Process.Pid}, have: map[string][]float64{}}
}

func writeSSHKey(b *testing.B, dir, name string) string {
	path := filepath.Join(dir, name)
	keygen := exec.Command(testenv.NeedTool(b, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", path)
	if out, err := keygen.CombinedOutput(); err != nil {
		b.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	return path
}

// freePort asks the system for a port that sshd and ssh, which take none by themselves, then use.
func freePort(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

func waitDial(b *testing.B, addr string) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// family returns the processes and all their descendants.
func family(roots []int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, fields := procStat(path)
		if len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], pid)
		}
	}
	all := slices.Clone(roots)
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// procStat returns the fields of /proc/PID/stat behind the name of the command.
func procStat(path string) (pid int, fields []string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, nil
	}
	head, tail, _ := strings.Cut(string(data), " (")
	pid, _ = strconv.Atoi(head)
	return pid, strings.Fields(tail[strings.LastIndex(tail, ")")+1:])
}

// cpuSeconds is user and system time of the processes, in ticks of 10 ms.
func cpuSeconds(roots []int) float64 {
	ticks := 0
	for _, pid := range family(roots) {
		_, fields := procStat(fmt.Sprintf("/proc/%d/stat", pid))
		if len(fields) > 12 {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			ticks += user + system
		}
	}
	return float64(ticks) / 100
}

func rssMiB(roots []int) float64 {
	kib := 0
	for _, pid := range family(roots) {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
				kib += n
			}
		}
	}
	return float64(kib) / 1024
}
