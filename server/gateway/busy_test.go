package gateway_test

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A busyMeter measures how much of the machine others use meanwhile. It knows nothing where there is no /proc.
type busyMeter struct {
	pids  []int // of this test
	began time.Time
	total int64
	own   int64
}

// ticks is the unit of /proc's times (proc(5), USER_HZ).
const ticks = 10 * time.Millisecond

func newBusyMeter(pids ...int) *busyMeter {
	m := &busyMeter{pids: append(pids, os.Getpid()), began: time.Now()}
	m.total, m.own = m.read()
	return m
}

// others returns the share of all processors that others used since the beginning, 0 to 1.
func (m *busyMeter) others() float64 {
	total, own := m.read()
	used := time.Duration((total-m.total)-(own-m.own)) * ticks
	return max(0, used.Seconds()/(time.Since(m.began).Seconds()*float64(runtime.NumCPU())))
}

func (m *busyMeter) read() (total, own int64) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	// cpu user nice system idle iowait irq softirq steal
	for i, f := range strings.Fields(line) {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil && i != 4 && i != 5 && i <= 8 {
			total += n
		}
	}
	for _, pid := range m.pids {
		own += processTime(pid)
	}
	return total, own
}

// processTime is what a process has used, in ticks.
func processTime(pid int) int64 {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // behind the name, which may be anything
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return user + system
}
