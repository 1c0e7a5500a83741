package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/status"
)

// maxAuthorities bounds the file of --ca-file.
const maxAuthorities = 1 << 20

type loginFlags struct {
	provider    string
	fingerprint string
	file        string
	deviceCode  bool
	noBrowser   bool
	timeout     time.Duration
}

func (a *app) loginCommand() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login [URL]",
		Short: "Log in at a gateway with your company's login provider",
		Long: `Opens the login provider's page in the browser, and exchanges the login for a
certificate, which culvert up renews until the gateway wants a new login. The
gateway's URL is remembered: later logins need none.

A gateway in a private network that issued its HTTPS certificate itself is trusted
by the fingerprint that culvert-gateway printed (--ca-fingerprint).`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address := ""
			if len(args) == 1 {
				var err error
				if address, err = client.GatewayURL(args[0]); err != nil {
					return &usageError{err}
				}
			}
			return a.login(cmd.Context(), address, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.provider, "provider", "", "login provider, where the gateway offers several")
	flags.StringVar(&f.fingerprint, "ca-fingerprint", "", "trust the gateway's authority with this fingerprint, `sha256:HEX`")
	flags.StringVar(&f.file, "ca-file", "", "trust the authorities in this PEM `file`")
	flags.BoolVar(&f.deviceCode, "device-code", false, "log in on another device with a code")
	flags.BoolVar(&f.noBrowser, "no-browser", false, "print the address to open on stderr, and open nothing")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long the login may take")
	return cmd
}

// check is here and not in cobra's flag groups, whose errors come too late to be
// told from others.
func (f loginFlags) check() error {
	switch {
	case f.fingerprint != "" && f.file != "":
		return &usageError{errors.New("--ca-fingerprint and --ca-file exclude each other")}
	case f.deviceCode && f.noBrowser:
		return &usageError{errors.New("--device-code needs no browser anyway: leave --no-browser out")}
	case f.timeout <= 0:
		return &usageError{errors.New("--timeout must be more than nothing")}
	default:
		return nil
	}
}

func (f loginFlags) trust() (client.Trust, error) {
	var trust client.Trust
	if f.fingerprint != "" {
		fingerprint, err := auth.ParseFingerprint(f.fingerprint)
		if err != nil {
			return trust, &usageError{fmt.Errorf("--ca-fingerprint: %w", err)}
		}
		trust.Fingerprint = fingerprint
	}
	if f.file != "" {
		info, err := os.Stat(f.file)
		if err != nil {
			return trust, fmt.Errorf("--ca-file: %w", err)
		}
		if info.Size() > maxAuthorities {
			return trust, fmt.Errorf("--ca-file: %s has more than %d bytes", f.file, maxAuthorities)
		}
		if trust.Roots, err = os.ReadFile(f.file); err != nil {
			return trust, fmt.Errorf("--ca-file: %w", err)
		}
	}
	return trust, nil
}

func (a *app) login(ctx context.Context, address string, f loginFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	trust, err := f.trust()
	if err != nil {
		return err
	}
	cfg, err := a.config(quiet)
	if err != nil {
		return err
	}
	if _, err := client.LogIn(ctx, cfg, client.LogInOptions{
		URL: address, Trust: trust, Provider: f.provider, DeviceCode: f.deviceCode, NoBrowser: f.noBrowser,
		Out: a.err, Timeout: f.timeout,
	}); err != nil {
		return err
	}
	running := a.local(cfg).Reload(ctx) == nil
	s, err := client.Offline(cfg.Profile, time.Now())
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(s)
	}
	a.printLogin(s, running)
	return nil
}

func (a *app) printLogin(s status.Status, running bool) {
	a.printf("logged in as %s at %s\n", s.User, s.Gateway.URL)
	if len(s.User.Groups) > 0 {
		a.printf("groups: %s\n", joinList(s.User.Groups))
	}
	end := s.Session.Deadline.Local().Format("2006-01-02 15:04")
	switch {
	case s.Session.Deadline.IsZero():
	case s.Session.NoRenewal != "":
		a.printf("until %s only: the login ends with its certificate, which is not renewed (%s)\n", end, s.Session.NoRenewal)
	default:
		a.printf("until %s; the certificate renews itself until then\n", end)
	}
	if running {
		a.printf("next: nothing, the running culvert up takes this login\n")
	} else {
		a.printf("next: culvert up, or culvert services to see what you may reach\n")
	}
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget the login of this profile",
		Long:  "Removes certificate, keys and tokens of the login. A running culvert up loses its connection.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.logout(cmd.Context()) },
	}
}

func (a *app) logout(ctx context.Context) error {
	cfg, err := a.config(quiet)
	if err != nil {
		return err
	}
	before, err := client.Offline(cfg.Profile, time.Now())
	if err != nil {
		return err
	}
	if err := cfg.Profile.Logout(ctx); err != nil {
		return err
	}
	_ = a.local(cfg).Reload(ctx) // nobody runs: nothing to tell
	switch {
	case a.json:
		after, err := client.Offline(cfg.Profile, time.Now())
		if err != nil {
			return err
		}
		return a.printJSON(after)
	case before.State == status.NotLoggedIn:
		a.printf("not logged in\n")
	default:
		a.printf("logged out of %s\n", before.Gateway.URL)
	}
	return nil
}
