package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/client/localapi"
	"github.com/culvert-vpn/culvert/client/login"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/internal/neterr"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Exit codes, the same for every command.
const (
	exitDone        = 0
	exitError       = 1
	exitUsage       = 2
	exitNotLoggedIn = 3 // or expired
	exitDenied      = 4
	exitGateway     = 5 // unreachable
	exitService     = 6 // unreachable behind the gateway
)

// usageError is a command line that was not understood.
type usageError struct{ err error }

// commandLineError is one that the flags' parser found, in the words of cobra,
// with the command that it belongs to.
type commandLineError struct {
	err     error
	command *cobra.Command
}

func (e *commandLineError) Error() string {
	text, _, _ := strings.Cut(e.err.Error(), "\n")
	return text
}

// hint is what the parser guesses, or else how the command is written.
func (e *commandLineError) hint() string {
	if _, guesses, found := strings.Cut(e.err.Error(), "Did you mean this?"); found {
		return "did you mean " + strings.Join(strings.Fields(guesses), " or ") + "?"
	}
	if e.command == nil || !e.command.HasParent() {
		return ""
	}
	return "it is written " + e.command.UseLine()
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// quietError ends the program with a code after everything was said.
type quietError struct{ code int }

func (e *quietError) Error() string { return fmt.Sprintf("exit %d", e.code) }

func exitCode(err error) int {
	var (
		usage   *usageError
		silent  *quietError
		refusal *wire.Refusal
		ended   *wire.Termination
		aborted *tunnel.AbortError
		state   *status.Error
		problem *enroll.Problem
		admin   *adminctl.Error
	)
	switch {
	case errors.As(err, &admin):
		return admin.Code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &refusal):
		return refusalCode(refusal.Code)
	case errors.As(err, &ended):
		return endCode(ended.Code)
	case errors.As(err, &aborted):
		return abortCode(aborted.Code)
	case errors.As(err, &state):
		return stateCode(state.Status.State)
	case errors.Is(err, client.ErrNotLoggedIn), errors.Is(err, certstore.ErrNotLoggedIn):
		return exitNotLoggedIn
	case errors.As(err, &problem):
		return problemCode(problem)
	case errors.Is(err, client.ErrNoGateway):
		return exitUsage
	case errors.Is(err, oidc.ErrUnavailable):
		return exitError
	case errors.Is(err, tunnel.ErrLost):
		return exitGateway
	case unreachable(err), hungUp(err), plainHTTP(err):
		return exitGateway
	default:
		return exitError
	}
}

func refusalCode(code wire.Code) int {
	switch code {
	case wire.CodeDenied, wire.CodeStepUpRequired, wire.CodeNoSuchService:
		return exitDenied
	case wire.CodeRefused, wire.CodeUnreachable, wire.CodeTimedOut:
		return exitService
	case wire.CodeExpired:
		return exitNotLoggedIn
	case wire.CodeDraining, wire.CodeUnavailable:
		return exitGateway
	default:
		return exitError
	}
}

// endCode is for a stream that ended with its session.
func endCode(code wire.TerminateCode) int {
	switch code {
	case wire.TerminateExpired, wire.TerminateRenewalRefused:
		return exitNotLoggedIn
	case wire.TerminateLocked:
		return exitDenied
	default:
		return exitGateway
	}
}

// abortCode is for a stream that was cut while it was open.
func abortCode(code wire.AbortCode) int {
	switch code {
	case wire.AbortRevoked:
		return exitDenied
	case wire.AbortTerminated:
		return exitGateway
	default:
		return exitError
	}
}

func stateCode(s status.State) int {
	switch s {
	case status.Connected, status.Stopped:
		return exitDone
	case status.NotLoggedIn, status.Expired:
		return exitNotLoggedIn
	case status.Locked:
		return exitDenied
	case status.Connecting, status.Reconnecting:
		return exitGateway
	default:
		return exitError
	}
}

func problemCode(p *enroll.Problem) int {
	switch {
	case p.Code == enroll.CodeLocked:
		return exitDenied
	case p.Code == enroll.CodeForeignAnswer:
		return exitGateway
	default:
		return exitError
	}
}

// unreachable reports whether no connection to the gateway came about.
func unreachable(err error) bool {
	var (
		dns     *net.DNSError
		op      *net.OpError
		request *url.Error
	)
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial" || errors.As(err, &request) && request.Timeout()
}

// plainHTTP reports that a server without TLS answered.
func plainHTTP(err error) bool {
	var record tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record)
}

// hungUp reports that a request for the gateway found a connection, and nobody who answers.
func hungUp(err error) bool {
	var request *url.Error
	return errors.As(err, &request) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || neterr.Is(err, syscall.ECONNRESET))
}

// report prints an error with its hint and reference.
func (a *app) report(err error) {
	var silent *quietError
	var admin *adminctl.Error
	if errors.As(err, &silent) || errors.As(err, &admin) && admin.Quiet() {
		return
	}
	fmt.Fprintf(a.err, "culvert: %s\n", lowerFirst(wire.CleanText(localTimes(message(err)))))
	hint, reference := hintFor(err)
	if hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", wire.CleanText(localTimes(hint)))
	}
	if reference != "" {
		fmt.Fprintf(a.err, "reference: %s\n", reference)
	}
}

// gatewayTime is a moment in the text of a gateway, which does not know the person's zone.
var gatewayTime = regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// localTimes writes such moments as everything else here is written.
func localTimes(text string) string {
	return gatewayTime.ReplaceAllStringFunc(text, func(s string) string {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return s
		}
		return at.Local().Format("2006-01-02 15:04")
	})
}

func message(err error) string {
	var (
		refusal *wire.Refusal
		state   *status.Error
		ended   *wire.Termination
		aborted *tunnel.AbortError
		admin   *adminctl.Error
	)
	switch {
	case errors.As(err, &admin):
		return admin.Message
	case errors.As(err, &refusal):
		return refusalText(refusal)
	case errors.As(err, &ended):
		return "the session ended" + colon(orElse(ended.Reason, string(ended.Code)))
	case errors.As(err, &aborted):
		return abortText(aborted)
	case errors.Is(err, localapi.ErrRunning):
		return "another culvert up runs with this profile"
	case errors.As(err, &state):
		return stateText(state.Status)
	case errors.Is(err, context.Canceled):
		return "interrupted"
	default:
		return networkText(err)
	}
}

// networkText shortens what net/http and crypto/tls say about the way to the
// gateway, whose URL the person gave. Trouble at the provider keeps its words.
func networkText(err error) string {
	var request *url.Error
	var certificate *tls.CertificateVerificationError
	if errors.Is(err, oidc.ErrUnavailable) || !errors.As(err, &request) {
		return err.Error()
	}
	where := request.URL
	if u, perr := url.Parse(request.URL); perr == nil {
		where = u.Host
	}
	switch {
	case unreachable(err):
		return where + " cannot be reached: " + client.Reason(err)
	case plainHTTP(err):
		return where + " answers, but not with HTTPS"
	case hungUp(err):
		return where + " closed the connection during the handshake"
	case errors.As(err, &certificate):
		return "the HTTPS certificate of " + where + " is not trusted: " + certificate.Err.Error()
	case errors.Is(err, mtls.ErrFingerprint):
		return where + ": " + mtls.ErrFingerprint.Error()
	default:
		return where + ": " + request.Err.Error()
	}
}

// abortText says what happened to a stream that was open.
func abortText(e *tunnel.AbortError) string {
	switch e.Code {
	case wire.AbortRevoked:
		return "the connection was cut, the right to it was taken away" + colon(e.Reason)
	case wire.AbortTerminated:
		return "the connection was cut by the gateway" + colon(e.Reason)
	case wire.AbortReset:
		return "the service reset the connection" + colon(e.Reason)
	case wire.AbortTimeout:
		return "the connection was idle for too long" + colon(e.Reason)
	default:
		return "the connection was cut (" + string(e.Code) + ")" + colon(e.Reason)
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func refusalText(r *wire.Refusal) string {
	if r.Code == wire.CodeNoSuchService && r.Reason != "" {
		return r.Reason // says so itself
	}
	what := map[wire.Code]string{
		wire.CodeDenied:         "denied",
		wire.CodeStepUpRequired: "a fresh login is required",
		wire.CodeNoSuchService:  "no such service",
		wire.CodeRefused:        "the service refused the connection",
		wire.CodeUnreachable:    "the service cannot be reached from the gateway",
		wire.CodeTimedOut:       "the service did not answer",
		wire.CodeExpired:        "the session has expired",
		wire.CodeLimit:          "too many streams",
		wire.CodeDraining:       "the gateway is stopping",
		wire.CodeUnavailable:    "the gateway cannot decide at the moment",
	}[r.Code]
	if what == "" {
		what = "refused (" + string(r.Code) + ")"
	}
	if r.Service != "" {
		what = r.Service + ": " + what
	}
	if r.Reason != "" {
		what += ": " + r.Reason
	}
	return what
}

// stateText leaves out what the hint says.
func stateText(s status.Status) string {
	switch s.State {
	case status.NotLoggedIn:
		return "not logged in"
	case status.Expired:
		return "expired" + colon(s.Reason)
	case status.Locked, status.Terminated:
		return string(s.State) + colon(s.Reason)
	case status.Connecting, status.Reconnecting:
		return "the gateway " + s.Gateway.Address + " cannot be reached" + colon(s.Reason)
	default:
		return s.Headline()
	}
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// hintFor says what the person can do, and under which reference the
// administrator finds it.
func hintFor(err error) (hint, reference string) {
	var (
		refusal *wire.Refusal
		state   *status.Error
		problem *enroll.Problem
		usage   *usageError
		line    *commandLineError
		ended   *wire.Termination
		aborted *tunnel.AbortError
		admin   *adminctl.Error
	)
	switch {
	case errors.As(err, &admin):
		return admin.Hint, admin.Reference
	case errors.As(err, &line) && line.hint() != "":
		return line.hint(), ""
	case errors.As(err, &usage):
		return "culvert --help lists the commands, culvert COMMAND --help their flags", ""
	case errors.As(err, &refusal):
		return refusalHint(refusal), refusal.Reference
	case errors.As(err, &ended):
		return "culvert status tells more", ended.Reference
	case errors.As(err, &aborted) && aborted.Code == wire.AbortRevoked:
		return "culvert services lists what you may reach now", ""
	case errors.As(err, &state):
		return stateHint(state.Status), state.Status.Reference
	case errors.As(err, &problem):
		return problem.Remedy, problem.Reference
	default:
		return plainHint(err), ""
	}
}

func refusalHint(r *wire.Refusal) string {
	switch {
	case r.Remedy != "":
		return r.Remedy
	case r.Code == wire.CodeNoSuchService:
		return "culvert services lists what you may reach"
	case r.Code == wire.CodeExpired:
		return "run culvert login"
	case r.Code == wire.CodeStepUpRequired:
		return "try again, and sign in when you are asked to"
	case r.Code == wire.CodeDenied && r.Reference != "":
		return "your administrator finds the decision under the reference"
	default:
		return ""
	}
}

func stateHint(s status.Status) string {
	switch {
	case s.Remedy != "":
		return s.Remedy
	case s.State == status.NotLoggedIn:
		return "run " + s.LoginCommand()
	case s.State == status.Expired:
		return "run culvert login"
	case s.State == status.Stopped:
		return "run culvert up"
	case !s.Works() && !s.Final():
		return "check the network; culvert status tells more"
	default:
		return ""
	}
}

func plainHint(err error) string {
	var (
		corrupt *certstore.CorruptError
		choose  *login.ChooseError
		version *enroll.VersionError
	)
	switch {
	case errors.Is(err, client.ErrNoGateway):
		return "for example culvert login https://gateway.example.com"
	case errors.Is(err, client.ErrNotLoggedIn), errors.Is(err, certstore.ErrNotLoggedIn):
		return "run culvert login URL"
	case errors.As(err, &corrupt):
		return "nothing was overwritten; run culvert login again"
	case errors.Is(err, certstore.ErrNewer):
		return "use the newer culvert, or another --state-dir"
	case errors.As(err, &choose):
		return "name one with --provider"
	case errors.As(err, &version):
		return "upgrade the older one of culvert and culvert-gateway"
	case errors.Is(err, mtls.ErrFingerprint):
		return "compare it with what culvert-gateway printed; if it is right, somebody stands in between"
	case errors.Is(err, keyring.ErrKeyLost):
		return "run culvert login again"
	case errors.Is(err, keyring.ErrUnavailable):
		return "unlock the system's keyring, and try again"
	case errors.Is(err, localapi.ErrRunning):
		return "culvert status shows it, culvert down stops it"
	case errors.Is(err, tunnel.ErrLost):
		return "what was under way is not complete; culvert status tells whether there is a new connection"
	case errors.Is(err, client.ErrLoginRunning):
		return "finish or interrupt that one first"
	case errors.Is(err, oidc.ErrUnavailable):
		return "the login provider is at fault, not the gateway; try again later"
	default:
		return networkHint(err)
	}
}

// lowerFirst keeps messages in lower case, but not names such as "OIDC".
func lowerFirst(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	second, _ := utf8.DecodeRuneInString(s[size:])
	if unicode.IsUpper(first) && !unicode.IsUpper(second) && !strings.HasPrefix(s, "Culvert") {
		return string(unicode.ToLower(first)) + s[size:]
	}
	return s
}
