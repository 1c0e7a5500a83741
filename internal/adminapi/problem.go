package adminapi

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/culvert-vpn/culvert/internal/plaintext"
)

// Code says in one word why a request was refused. Programs branch on it; people read [Problem.Detail] and
// [Problem.Remedy].
type Code string

// The reasons for which a gateway refuses. A client that meets another one treats it like [CodeInternal].
const (
	CodeBadRequest       Code = "bad_request"        // a parameter or the body is not what this route takes
	CodeUnauthenticated  Code = "unauthenticated"    // nobody is known to ask
	CodeForbidden        Code = "forbidden"          // the caller lacks the role
	CodeOwnRequest       Code = "own_request"        // nobody decides their own request
	CodeForeign          Code = "foreign_origin"     // the request comes from a web page, or is for another host
	CodeNotFound         Code = "not_found"          // no such route, or no such thing
	CodeMethodNotAllowed Code = "method_not_allowed" // the path exists, with another method
	CodeTooLarge         Code = "too_large"          // the body is over its bound
	CodeTimeout          Code = "timeout"            // the body came too slowly
	CodeMediaType        Code = "media_type"         // the body is not application/json
	CodeAmbiguous        Code = "ambiguous"          // several users go by that name; see Candidates
	CodeConflict         Code = "conflict"           // the policy has changed since; see Current
	CodeDecided          Code = "decided"            // the request has been decided, withdrawn or has ended
	CodePolicyInvalid    Code = "policy_invalid"     // it does not load, or its tests fail; see Check
	CodePolicyFile       Code = "policy_is_file"     // this gateway's policy is a file and changed there
	CodeNoService        Code = "no_such_service"    // no service is called that
	CodeNotRequestable   Code = "not_requestable"    // nobody can ask for that service, or it would not help
	CodeTooLong          Code = "too_long"           // longer than the service may be asked for
	CodeTooMany          Code = "too_many"           // too many requests wait for an answer, or run at once
	CodeStoreUnavailable Code = "store_unavailable"  // the gateway's database does not answer
	CodeAuditUnavailable Code = "audit_unavailable"  // the audit log cannot be written, so nothing was changed
	CodeInternal         Code = "internal"           // the gateway failed; its log has the reference
	CodeForeignAnswer    Code = "foreign_answer"     // made by the client: whatever answered is not a Culvert gateway
)

// Problem is an error answer: problem details of RFC 9457 with extension members. It is an error; get at it with
// [errors.As]. It never holds a secret.
type Problem struct {
	// Type is "about:blank": the code says it all (RFC 9457 section 4.2.1).
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Code      Code   `json:"code" doc:"Why, in one word; programs branch on it."`
	Detail    string `json:"detail,omitempty" doc:"A sentence for the person who asked."`
	Remedy    string `json:"remedy,omitempty" doc:"What that person can do about it."`
	Reference string `json:"reference,omitempty" doc:"Finds the line in the gateway's log, and in the audit log where it was audited."`

	Candidates []Person       `json:"candidates,omitempty" doc:"Of ambiguous: whom it could mean."`
	Current    *PolicyVersion `json:"current,omitempty" doc:"Of conflict: the version that is in force, who made it and when."`
	Check      *PolicyCheck   `json:"check,omitempty" doc:"Of policy_invalid: what is wrong."`

	// RetryAfter is the Retry-After header; zero means that it was absent.
	RetryAfter time.Duration `json:"-"`
}

// Error gives the detail and the code in one line.
func (p *Problem) Error() string {
	detail := p.Detail
	if detail == "" {
		detail = p.Title
	}
	return fmt.Sprintf("%s (%s)", detail, p.Code)
}

// Is makes errors.Is(err, &Problem{Code: …}) compare by code.
func (p *Problem) Is(target error) bool {
	other, ok := target.(*Problem)
	return ok && other.Code == p.Code
}

// Media types of the API.
const (
	TypeJSON    = "application/json"
	TypeProblem = "application/problem+json"
	TypeLines   = "application/x-ndjson" // one JSON message per line
)

// ParseProblem builds a Problem from an answer with an error status. One in another form than RFC 9457 comes from another
// program, and the problem says so.
func ParseProblem(resp *http.Response, body []byte) *Problem {
	p := &Problem{}
	if mediaType(resp.Header) != TypeProblem || Decode(body, p, Lenient) != nil || p.Code == "" {
		p = &Problem{
			Code:   CodeForeignAnswer,
			Detail: fmt.Sprintf("the answer is %q, and not as a Culvert gateway answers", resp.Status),
			Remedy: "check that the other side is a gateway of this version",
		}
	}
	p.Status = resp.StatusCode
	if p.Title == "" {
		p.Title = http.StatusText(resp.StatusCode)
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		p.RetryAfter = min(time.Duration(n)*time.Second, time.Hour)
	}
	p.Title, p.Detail, p.Remedy = plaintext.Line(p.Title), plaintext.Line(p.Detail), plaintext.Line(p.Remedy)
	p.Reference, p.Code = plaintext.Line(p.Reference), Code(plaintext.Line(string(p.Code)))
	return p
}

func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}
