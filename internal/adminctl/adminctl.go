// Package adminctl is the command line of administration: `culvert admin …` inside the tunnel, the same commands as
// `culvert-gateway admin …` over the gateway's root-only socket, and `culvert request …` for what employees ask for.
//
// It parses arguments, calls internal/adminapi and prints: tables and sheets for people, the API's own JSON with --json. It opens no
// connection itself (the programs do), decides nothing, and trusts no text that it prints: what comes from the gateway is cleaned of
// control characters.
package adminctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// A Connection is a way to the API.
type Connection struct {
	// Dial opens one connection that speaks HTTP/1.1. Required.
	Dial func(ctx context.Context) (net.Conn, error)
	// Close is called when the command is done. Optional.
	Close func()
}

// Config is what a program lends its commands. In, Out, Err, Connect and Program are required.
type Config struct {
	In       io.Reader
	Out, Err io.Writer
	// Program is what a person types before "admin" or "request": "culvert", "culvert-gateway".
	Program string
	// About stands above the help of "admin". Optional.
	About string
	// Connect opens the way to the API. Its errors reach the program as they are.
	Connect func(ctx context.Context) (Connection, error)
	// Peek is Connect where that costs nothing, for completion: it neither logs in nor waits. Optional.
	Peek func(ctx context.Context) (Connection, error)
	// JSON reports whether --json was given; nil means never.
	JSON func() bool
	// Terminal reports whether a person sits at In; nil asks In.
	Terminal func() bool
	// Width is how long a line of Out may be, 0 for any; nil asks Out, see LineWidth.
	Width func() int
	// Now is the time, in the zone to write times in; nil means time.Now.
	Now func() time.Time
}

// ctl is what the commands share.
type ctl struct{ Config }

func newCtl(cfg Config) *ctl {
	if cfg.JSON == nil {
		cfg.JSON = func() bool { return false }
	}
	if cfg.Terminal == nil {
		cfg.Terminal = func() bool { return terminal(cfg.In) }
	}
	if cfg.Width == nil {
		cfg.Width = func() int { return LineWidth(cfg.Out) }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &ctl{cfg}
}

// Command returns the tree "admin".
func Command(cfg Config) *cobra.Command {
	c := newCtl(cfg)
	cmd := c.group("admin", "Administer the gateway: policy, sessions, locks, requests, audit", strings.TrimPrefix(cfg.About+`
Every command needs a role, which the gateway's configuration gives (admin.roles):
viewers read, editors change policy, sessions and locks, approvers decide
requests, owners do everything. "admin whoami" tells which ones you have.

USER is written provider:email, an e-mail address where only one user has it,
provider:sub:SUBJECT, or the user's id. Times are written as 30d (ago), as
2026-12-24, as "2026-12-24 10:00" in your own zone, or as 2026-12-24T10:00:00Z.
--json prints what the gateway's API answered.

Exit codes: 0 done, 1 error (also: somebody else was faster), 2 usage, 3 not
logged in, 4 not permitted, 5 gateway unreachable.`, "\n"))
	cmd.Example = `  NAME admin policy explain --as ada@corp.example wiki
  NAME admin sessions --user ada@corp.example
  NAME admin revoke ada@corp.example --for 2h --message "Call the help desk, extension 12."
  NAME admin audit --user ada@corp.example --since 1d`
	cmd.AddCommand(c.policyCommand(), c.sessionsCommand(), c.revokeCommand(), c.locksCommand(), c.requestsCommand(),
		c.auditCommand(), c.devicesCommand(), c.certificatesCommand(), c.gatewaysCommand(), c.usersCommand(), c.whoamiCommand())
	c.finish(cmd)
	return cmd
}

// RequestCommand returns the tree "request", for people without a role.
func RequestCommand(cfg Config) *cobra.Command {
	c := newCtl(cfg)
	cmd := c.requestCommand()
	c.finish(cmd)
	return cmd
}

// group is a command that only holds others.
func (c *ctl) group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: c.onlyCommands, RunE: func(cmd *cobra.Command, _ []string) error {
		cmd.SetOut(c.Err)
		_ = cmd.Help()
		return quietly(ExitUsage)
	}}
	cmd.AddCommand(commands...)
	return cmd
}

// onlyCommands refuses what is not a command of the group, with the one that was probably meant.
func (c *ctl) onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if guesses := cmd.SuggestionsFor(args[0]); len(guesses) > 0 {
		return usagef("did you mean "+strings.Join(guesses, " or ")+"?", "%s", text)
	}
	return usagef(cmd.CommandPath()+" --help lists its commands", "%s", text)
}

// finish writes the program's name into the examples, and has faults of arguments say how the command is written.
func (c *ctl) finish(cmd *cobra.Command) {
	cmd.Example = strings.ReplaceAll(cmd.Example, "NAME ", c.Program+" ")
	check := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		return usageOf(cmd, check(cmd, args))
	}
	cmd.SetFlagErrorFunc(usageOf)
	for _, sub := range cmd.Commands() {
		c.finish(sub)
	}
}

// call runs one command's work with a connected client, and names the errors of the API.
func (c *ctl) call(ctx context.Context, work func(ctx context.Context, api *adminapi.Client) error) error {
	return c.over(ctx, c.Connect, work)
}

func (c *ctl) over(ctx context.Context, connect func(context.Context) (Connection, error), work func(context.Context, *adminapi.Client) error) error {
	if ctx == nil {
		ctx = context.Background()
	}
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	if conn.Close != nil {
		defer conn.Close()
	}
	transport := &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return conn.Dial(ctx) },
		ResponseHeaderTimeout: patience,
		DisableCompression:    true,
	}
	defer transport.CloseIdleConnections()
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return plainly(ctx, work(ctx, &adminapi.Client{HTTP: &http.Client{Transport: transport, CheckRedirect: noRedirect}}))
}

// patience is how long an answer may take to begin. A preview begins at once and tells how far it is.
const patience = time.Minute

func (c *ctl) calendar() calendar { return calendar{c.Now()} }

func (c *ctl) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(c.Out, format, args...)
	return err
}

// note tells a person something that is not the command's result.
func (c *ctl) note(format string, args ...any) { fmt.Fprintf(c.Err, format+"\n", args...) }

// json prints an answer of the API.
func (c *ctl) json(v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(c.Out, inertJSON(b.String()))
	return err
}

// inertJSON escapes what the encoder leaves as it is and a terminal may obey. Such characters stand in strings only.
func inertJSON(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && unprintable(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || !unprintable(r):
			b.WriteRune(r)
		case r > 0xFFFF: // a surrogate pair
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xD800+r>>10, 0xDC00+r&0x3FF)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
