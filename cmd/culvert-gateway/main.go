// Command culvert-gateway is the operator's program: it writes a first
// configuration, checks configurations and policies, runs a gateway and looks
// after its CA.
//
// Exit codes: 0 done, 1 error, 2 usage, 5 no gateway answers (healthcheck). A
// gateway that was told to stop ends with 0 when everything was done in time,
// else with 11 (streams were cut at drain_timeout), 12 (the audit log could not
// be closed) or 13 (the database could not).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/server"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitDone        = 0
	exitError       = 1
	exitUsage       = 2
	exitUnreachable = 5
	exitDrain       = 10 // plus the step that ran out
)

// A program is one invocation.
type program struct {
	in     io.Reader
	out    io.Writer
	err    io.Writer
	config string // --config
	json   bool   // --json
	began  bool   // arguments were fine, and a command began
}

// An exitCode ends the program with a code of its own. The message, if any, was
// printed.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// run is the program; its result is the exit code.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	p := &program{in: in, out: out, err: errOut}
	root := p.root()
	root.SetArgs(args)
	return p.exitCode(root.Execute())
}

// exitCode prints err, where it was not printed yet, and classes it.
func (p *program) exitCode(err error) int {
	var code exitCode
	var drain *server.DrainError
	var admin *adminctl.Error
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &admin):
		return p.adminFailed(admin)
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &drain):
		p.complain(err)
		return exitDrain + int(drain.Step)
	case !p.began:
		p.complain(err)
		fmt.Fprintln(p.err, "hint: culvert-gateway --help")
		return exitUsage
	default:
		p.complain(err)
		return exitError
	}
}

// adminFailed prints how a command of "admin" failed.
func (p *program) adminFailed(e *adminctl.Error) int {
	if e.Quiet() {
		return e.Code
	}
	p.complain(e)
	if e.Hint != "" {
		fmt.Fprintf(p.err, "hint: %s\n", e.Hint)
	}
	if e.Reference != "" {
		fmt.Fprintf(p.err, "reference: %s\n", e.Reference)
	}
	return e.Code
}

// complain prints err, one line for each fault.
func (p *program) complain(err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(p.err, "culvert-gateway: %s\n", line)
	}
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "culvert-gateway",
		Short:         "Run a Culvert gateway: zero-trust access to internal services",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          p.help,
	}
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.PersistentFlags().StringVar(&p.config, "config", defaultConfig(), "the configuration file (CULVERT_GATEWAY_CONFIG)")
	root.PersistentFlags().BoolVar(&p.json, "json", false, "print the result as JSON")
	root.AddCommand(p.initCommand(), p.serveCommand(), p.healthcheckCommand(), p.versionCommand(),
		p.configCommand(), p.policyCommand(), p.caCommand(), p.auditCommand(), p.adminCommand())
	p.noteBegin(root)
	return root
}

// noteBegin has every command say that it began: an error before that, of flags
// or arguments, is one of usage.
func (p *program) noteBegin(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			p.began = true
			return run(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		p.noteBegin(sub)
	}
}

// group is a command that only holds others; alone it is a usage error.
func (p *program) group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: p.help}
	cmd.AddCommand(commands...)
	return cmd
}

func (p *program) help(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(p.err)
	_ = cmd.Help()
	return exitCode(exitUsage)
}

func defaultConfig() string {
	if path := os.Getenv(server.EnvPrefix + "CONFIG"); path != "" {
		return path
	}
	return "/etc/culvert-gateway/" + server.ConfigFile
}
