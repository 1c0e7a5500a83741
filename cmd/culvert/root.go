package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/client/localapi"
)

// app is what the commands share.
type app struct {
	streams
	stateDir  string
	profile   string
	json      bool
	verbose   bool
	noBrowser bool // a fresh login prints its address and opens nothing
	started   bool // the command line was understood

	mu   sync.Mutex
	told map[string]time.Time // references of refusals that the person has seen
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "culvert",
		Short: "Reach internal services through a Culvert gateway",
		Long: `culvert logs you in with your company's login provider, keeps an encrypted
tunnel to the gateway up, and leads programs of this machine to the services that
you may reach.

Keys are sealed with the system's keyring where there is one. CULVERT_KEYRING=file
keeps the sealing key in a file of the state folder instead, CULVERT_KEYRING=os
insists on the keyring.

Exit codes: 0 done, 1 error, 2 usage, 3 not logged in or expired, 4 denied,
5 gateway unreachable, 6 service unreachable behind the gateway.`,
		Example: `  culvert login https://gateway.example.com
  culvert up --socks 127.0.0.1:1080
  ssh -o ProxyCommand='culvert connect %h:%p' host.corp.example`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.start() },
	}
	root.SuggestionsMinimumDistance = 2 // swapped letters are two
	flags := root.PersistentFlags()
	flags.StringVar(&a.profile, "profile", certstore.DefaultProfile, "profile: one per gateway and person")
	flags.StringVar(&a.stateDir, "state-dir", "", "folder of all state (CULVERT_STATE_DIR)")
	flags.BoolVar(&a.json, "json", false, "print JSON")
	flags.BoolVar(&a.verbose, "verbose", false, "log what happens to stderr")
	root.AddCommand(a.loginCommand(), a.logoutCommand(), a.addNoBrowser(a.upCommand()), a.downCommand(), a.addNoBrowser(a.forwardCommand()),
		a.addNoBrowser(a.connectCommand()), a.servicesCommand(), a.explainCommand(), a.statusCommand(), a.addNoBrowser(a.pingCommand()), a.versionCommand(),
		a.requestCommand(), a.adminCommand())
	return root
}

// start runs before every command, when its flags and arguments are known.
func (a *app) start() error {
	if err := certstore.CheckName(a.profile); err != nil {
		return err
	}
	a.started = true
	if a.stateDir == "" {
		a.stateDir = os.Getenv("CULVERT_STATE_DIR")
	}
	if a.stateDir == "" {
		dir, err := defaultStateDir(runtime.GOOS, os.Getenv, os.UserHomeDir)
		if err != nil {
			return err
		}
		a.stateDir = dir
	}
	dir, err := filepath.Abs(a.stateDir)
	a.stateDir = dir
	return err
}

// defaultStateDir is the system's place for a user's state.
func defaultStateDir(goos string, env func(string) string, home func() (string, error)) (string, error) {
	if dir := env("LOCALAPPDATA"); goos == "windows" && dir != "" {
		return filepath.Join(dir, "culvert"), nil
	}
	if dir := env("XDG_STATE_HOME"); goos != "windows" && goos != "darwin" && filepath.IsAbs(dir) {
		return filepath.Join(dir, "culvert"), nil
	}
	h, err := home()
	if err != nil {
		return "", fmt.Errorf("no place for the state: %w; name one with --state-dir", err)
	}
	switch goos {
	case "windows":
		return filepath.Join(h, "AppData", "Local", "culvert"), nil
	case "darwin":
		return filepath.Join(h, "Library", "Application Support", "culvert"), nil
	default:
		return filepath.Join(h, ".local", "state", "culvert"), nil
	}
}

func (a *app) logger(level slog.Level) *slog.Logger {
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// quiet is above every level: nothing is logged without --verbose.
const quiet = slog.LevelError + 1

func (a *app) config(level slog.Level) (client.Config, error) {
	log := a.logger(level)
	ring, err := keyring.New(keyring.Config{
		Dir: filepath.Join(a.stateDir, "keyring"), Use: keyring.Kind(os.Getenv("CULVERT_KEYRING")), Logger: log,
	})
	if err != nil {
		return client.Config{}, fmt.Errorf("CULVERT_KEYRING: %w", err)
	}
	profile, err := certstore.Open(a.stateDir, a.profile, certstore.Options{Keyring: ring, Logger: log})
	if err != nil {
		return client.Config{}, err
	}
	return client.Config{Profile: profile, Logger: log}, nil
}

// prompt is how this program asks for a fresh login while a stream waits for it.
func (a *app) prompt() *client.Prompt { return &client.Prompt{Out: a.err, NoBrowser: a.noBrowser} }

// addNoBrowser gives a command that opens streams the flag of the login.
func (a *app) addNoBrowser(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.noBrowser, "no-browser", false, "when a service asks for a fresh login, print the address to open on stderr, and open nothing")
	return cmd
}

// local returns the way to a client that runs with the profile, if one does.
func (a *app) local(cfg client.Config) *localapi.Client {
	return localapi.NewClient(client.SocketPath(cfg.Profile))
}

func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// jsonLine prints one object on a line of its own.
func (a *app) jsonLine(v any) error { return json.NewEncoder(a.out).Encode(v) }

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// warnf tells the person something on stderr.
func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.err, "culvert: "+format+"\n", args...)
}
