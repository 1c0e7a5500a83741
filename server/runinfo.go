package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// lockWait is how long a start waits for a gateway that is just ending.
const lockWait = 2 * time.Second

// RunInfo is what a running gateway writes into its state folder, for
// "healthcheck" and for the error of a second one.
type RunInfo struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Listen  string `json:"listen"`  // the address that is really listened on
	Metrics string `json:"metrics"` // likewise, or empty
	URL     string `json:"url"`
}

func runInfoPath(stateDir string) string { return filepath.Join(stateDir, "gateway.run") }

// ReadRunInfo returns what the gateway on stateDir wrote. The error is
// fs.ErrNotExist when none runs. What a crash left behind may come back, too:
// nobody answers at its addresses then.
func ReadRunInfo(stateDir string) (RunInfo, error) {
	data, err := durable.ReadFile(runInfoPath(stateDir), 64<<10)
	if err != nil {
		return RunInfo{}, err
	}
	var info RunInfo
	if err := json.Unmarshal(data, &info); err != nil {
		return RunInfo{}, fmt.Errorf("read %s: %w", runInfoPath(stateDir), err)
	}
	return info, nil
}

func writeRunInfo(stateDir string, info RunInfo) error {
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	return durable.WriteFile(runInfoPath(stateDir), append(data, '\n'), 0o600)
}

func removeRunInfo(stateDir string) error {
	if err := os.Remove(runInfoPath(stateDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// takeState makes the state folder and locks it for this process: two gateways
// on one SQLite file would each believe to be alone.
func takeState(ctx context.Context, stateDir string) (*durable.FileLock, error) {
	if err := durable.MkdirPrivate(stateDir); err != nil {
		return nil, explain(err, stateDir)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := durable.Lock(ctx, filepath.Join(stateDir, "gateway.lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("another gateway%s runs on the state folder %s: stop it, or give this one a state_dir of its own", whoRuns(stateDir), stateDir)
	}
	if err != nil {
		return nil, explain(err, stateDir)
	}
	return lock, nil
}

func whoRuns(stateDir string) string {
	info, err := ReadRunInfo(stateDir)
	if err != nil || info.PID == 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d, listening on %s)", info.PID, info.Listen)
}
