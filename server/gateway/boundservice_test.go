package gateway_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// farEnv makes the test program the service of TestRevocationBound: a process of its own, as a service is, with file descriptors of
// its own.
const farEnv = "CULVERT_TEST_FAR_SERVICE"

// farEnd is what the service saw of one stream. Times are Unix nanoseconds.
type farEnd struct {
	ID    uint32
	Bytes int64 // that it got and gave back
	Last  int64 // when a byte went over the connection last, in either direction
	End   int64 // when the connection was over for the service
	Clean bool  // it ended with a FIN
}

// runFarService echoes, and for each line on stdin it tells how the streams ended that have ended since the last line.
func runFarService() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	fmt.Println(ln.Addr())
	var (
		mu    sync.Mutex
		ended []farEnd
	)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				end := farEcho(conn)
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, end)
			}()
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		mu.Lock()
		list := append([]farEnd{}, ended...) // never null
		ended = nil
		mu.Unlock()
		if err := json.NewEncoder(os.Stdout).Encode(list); err != nil {
			return err
		}
	}
	return lines.Err()
}

// farEcho begins with the four bytes that number the stream.
func farEcho(conn net.Conn) farEnd {
	defer conn.Close()
	var end farEnd
	buf := make([]byte, 256)
	_, err := io.ReadFull(conn, buf[:4])
	end.ID = binary.BigEndian.Uint32(buf)
	for err == nil {
		var n int
		if n, err = conn.Read(buf); n > 0 {
			end.Last = time.Now().UnixNano()
			if n, err = conn.Write(buf[:n]); err == nil {
				end.Last = time.Now().UnixNano()
				end.Bytes += int64(n)
			}
		}
	}
	end.End, end.Clean = time.Now().UnixNano(), err == io.EOF
	return end
}

// farService is that process.
type farService struct {
	addr string
	pid  int
	in   io.WriteCloser
	out  *bufio.Reader
}

func newFarService(t *testing.T) *farService {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), farEnv+"=1")
	cmd.Stderr = os.Stderr
	s := new(farService)
	if s.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = cmd.Process.Pid
	t.Cleanup(func() {
		s.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the service: %v", err)
		}
	})
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	s.addr = strings.TrimSpace(line)
	return s
}

// ended returns how n streams ended, and waits for that.
func (s *farService) ended(t *testing.T, n int) []farEnd {
	t.Helper()
	var all []farEnd
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); len(all) < n; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d streams have ended at the service", len(all), n)
		}
		fmt.Fprintln(s.in)
		line, err := s.out.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		var some []farEnd
		if err := json.Unmarshal(line, &some); err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	return all
}
