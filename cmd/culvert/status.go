package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/localapi"
	"github.com/culvert-vpn/culvert/client/status"
)

func (a *app) statusCommand() *cobra.Command {
	watch := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the tunnel works, and if not, why",
		Long: `Prints the state of the running culvert up, or of the stored login when none
runs. The exit code is 0 when connected, or logged in without a running culvert;
otherwise 3, 4 or 5 as for every command.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return a.watchStatus(cmd.Context())
			}
			return a.status(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "print a line at every change, until interrupted")
	return cmd
}

func (a *app) status(ctx context.Context) error {
	cfg, err := a.config(quiet)
	if err != nil {
		return err
	}
	s, err := a.currentStatus(ctx, cfg)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(s)
	} else {
		err = s.Write(a.out, time.Now())
	}
	if code := stateCode(s.State); err == nil && code != exitDone {
		return &quietError{code}
	}
	return err
}

// currentStatus asks the running client; when none runs, the files know.
func (a *app) currentStatus(ctx context.Context, cfg client.Config) (status.Status, error) {
	s, err := a.local(cfg).Status(ctx)
	if errors.Is(err, localapi.ErrNotRunning) {
		return client.Offline(cfg.Profile, time.Now())
	}
	return s, err
}

// watchStatus follows clients as they come and go.
func (a *app) watchStatus(ctx context.Context) error {
	cfg, err := a.config(quiet)
	if err != nil {
		return err
	}
	var last status.Status
	show := func(s status.Status) error {
		if !a.json && s.State == last.State && s.Reason == last.Reason && len(s.Warnings) == len(last.Warnings) {
			return nil // mere traffic
		}
		last = s
		return a.statusLine(s)
	}
	for ctx.Err() == nil {
		for s, err := range a.local(cfg).Watch(ctx) {
			if err != nil {
				break
			}
			if err := show(s); err != nil {
				return err
			}
		}
		s, err := client.Offline(cfg.Profile, time.Now())
		if err != nil {
			return err
		}
		if s.State != last.State {
			if err := show(s); err != nil {
				return err
			}
		}
		sleep(ctx, time.Second)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// statusLine prints a snapshot on a line of its own, with the warnings behind it.
func (a *app) statusLine(s status.Status) error {
	if a.json {
		return a.jsonLine(s)
	}
	a.printf("%s %s\n", time.Now().Format("15:04:05"), s.Headline())
	if s.Remedy != "" {
		a.printf("         hint: %s\n", s.Remedy)
	}
	for _, w := range s.Warnings {
		a.printf("         warning: %s\n", w.Text)
	}
	return nil
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the running culvert up of this profile",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.down(cmd.Context()) },
	}
}

// downTimeout bounds the wait for the other process.
const downTimeout = 15 * time.Second

func (a *app) down(ctx context.Context) error {
	cfg, err := a.config(quiet)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	err = a.local(cfg).Down(ctx)
	stopped := err == nil
	if err != nil && !errors.Is(err, localapi.ErrNotRunning) {
		return err
	}
	switch {
	case a.json:
		return a.printJSON(map[string]bool{"stopped": stopped})
	case stopped:
		a.printf("stopped\n")
	default:
		a.printf("not running\n")
	}
	return nil
}
