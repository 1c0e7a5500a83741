package adminctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/neterr"
)

// Exit codes of both programs.
const (
	ExitError       = 1
	ExitUsage       = 2
	ExitNotLoggedIn = 3
	ExitDenied      = 4
	ExitGateway     = 5 // unreachable
)

// An Error is how a command failed, ready to be printed: one line, in lower case and clean, what helps, and under which reference the
// gateway's audit log has it.
type Error struct {
	Code      int // exit code
	Message   string
	Hint      string
	Reference string
	Err       error // the cause; may be nil

	quiet bool
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Quiet reports that everything was said already, and only the exit code is left.
func (e *Error) Quiet() bool { return e.quiet }

// quietly ends a command that printed its bad news.
func quietly(code int) *Error { return &Error{Code: code, quiet: true} }

// usagef is a command line that was not understood.
func usagef(hint, format string, args ...any) *Error {
	return &Error{Code: ExitUsage, Message: clean(fmt.Sprintf(format, args...)), Hint: hint}
}

// usageOf gives a fault that cobra found the form of ours.
func usageOf(cmd *cobra.Command, err error) error {
	var own *Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return &Error{Code: ExitUsage, Message: clean(text), Hint: "it is written " + cmd.UseLine(), Err: err}
}

// plainly names an error that came over a connection. What the program knows better (a refusal of the tunnel, a login that is over)
// goes through without the words that net/http puts around it.
func plainly(ctx context.Context, err error) error {
	var (
		own     *Error
		problem *adminapi.Problem
		request *url.Error
		network net.Error
	)
	switch {
	case err == nil, errors.As(err, &own):
		return err
	case errors.As(err, &problem):
		return problemError(problem)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case hungUp(err):
		return &Error{Code: ExitGateway, Message: "the gateway ended the connection before it had answered", Err: err,
			Hint: "look whether the change was made before you make it again; admin audit tells"}
	case errors.As(err, &network) && network.Timeout():
		return &Error{Code: ExitGateway, Message: "the gateway did not answer in time", Hint: "try again; culvert-gateway healthcheck tells how it is", Err: err}
	case errors.As(err, &request):
		return request.Err
	default:
		return err
	}
}

// hungUp reports a connection that ended before its answer. What net/http says of one that ended between two requests is no exported
// error.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || neterr.Is(err, syscall.ECONNRESET) ||
		strings.HasSuffix(err.Error(), "http: server closed idle connection")
}

// problemError says what the gateway refused, with the exit code of its kind.
func problemError(p *adminapi.Problem) *Error {
	message := p.Detail
	if message == "" {
		message = p.Title
	}
	e := &Error{Code: problemExit(p), Message: clean(message), Hint: clean(p.Remedy), Reference: clean(p.Reference), Err: p}
	switch p.Code {
	case adminapi.CodeAmbiguous:
		names := make([]string, 0, len(p.Candidates))
		for _, c := range p.Candidates {
			names = append(names, fullPerson(c))
		}
		if len(names) > 0 {
			e.Hint = "one of " + strings.Join(names, "; ")
		}
	case adminapi.CodeForbidden:
		if e.Hint == "" {
			e.Hint = "roles stand in the gateway's configuration; admin whoami tells yours"
		}
	}
	return e
}

// ifMissing says where to look for what was not found, or not written as it should be.
func (c *ctl) ifMissing(err error, where string) error {
	var p *adminapi.Problem
	if !errors.As(err, &p) || p.Remedy != "" {
		return err
	}
	switch p.Code {
	case adminapi.CodeNotFound, adminapi.CodeNoService, adminapi.CodeBadRequest:
		e := problemError(p)
		e.Hint = c.Program + " admin " + where
		return e
	}
	return err
}

func problemExit(p *adminapi.Problem) int {
	switch p.Code {
	case adminapi.CodeUnauthenticated, adminapi.CodeForbidden, adminapi.CodeOwnRequest, adminapi.CodeForeign:
		return ExitDenied
	case adminapi.CodeStoreUnavailable, adminapi.CodeForeignAnswer:
		return ExitGateway
	case adminapi.CodeBadRequest, adminapi.CodeAmbiguous:
		return ExitUsage
	}
	switch p.Status {
	case 401, 403:
		return ExitDenied
	case 502, 503, 504:
		return ExitGateway
	default:
		return ExitError
	}
}
