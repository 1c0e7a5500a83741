package login

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/cli/browser"
)

// silence keeps the browser's own messages off our output, which may be JSON. The library has it as globals.
var silence = sync.OnceFunc(func() { browser.Stdout, browser.Stderr = io.Discard, io.Discard })

// openSystemBrowser opens an address that [CheckURL] accepts. Some openers end only with the browser; so it
// waits just long enough to see one that fails, and leaves one that runs alone.
func openSystemBrowser(address string) error {
	if err := CheckURL(address); err != nil {
		return err
	}
	if err := canOpen(runtime.GOOS, os.Getenv, exec.LookPath); err != nil {
		return err
	}
	silence()
	failed := make(chan error, 1)
	go func() { failed <- browser.OpenURL(address) }()
	timer := time.NewTimer(3 * time.Second)
	defer timer.Stop()
	select {
	case err := <-failed:
		return err
	case <-timer.C:
		return nil
	}
}

// canOpen says no where an opener would start a text browser in this terminal, or where there is none.
func canOpen(goos string, getenv func(string) string, lookPath func(string) (string, error)) error {
	if goos == "windows" || goos == "darwin" || getenv("DISPLAY") != "" || getenv("WAYLAND_DISPLAY") != "" {
		return nil
	}
	if _, err := lookPath("wslview"); err == nil && getenv("WSL_DISTRO_NAME") != "" {
		return nil
	}
	return errors.New("there is no graphical session here")
}
