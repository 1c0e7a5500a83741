package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"culvert": func() { os.Exit(realMain()) },
	})
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
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"fakegate": fakeGate,
			"world":    world,
			"login":    scriptLogin,
			"waitfor":  waitFor,
		},
	})
}
