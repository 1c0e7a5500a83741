package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"culvert": func() { os.Exit(realMain()) },
	})
}

// leakChecked fails a run that left goroutines behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScript runs the real program: every file of testdata/script is a session
// at a terminal. The commands that they have besides culvert are in world_test.go.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("CULVERT_STATE_DIR", env.WorkDir+"/state")
			env.Setenv("CULVERT_KEYRING", "file")
			for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
				env.Setenv(name, "")
			}
			env.Values[worldKey{}] = &worldHandle{stop: func() {}}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"fakegate":  fakeGate,
			"world":     world,
			"stopworld": stopWorld,
			"login":     scriptLogin,
			"waitfor":   waitFor,
		},
	})
}
