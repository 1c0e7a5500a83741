package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// administrate is what an administrator does: answer a request, explain a decision,
// and cut somebody off. bob is connected.
func administrate(ctx context.Context, r *report, w *world, bob *employee) {
	root := &employee{name: "root-admin", world: w}
	defer root.leave()
	r.scene("Root-admin, who administrates through the same tunnel")
	if !root.arrive(ctx, r) {
		return
	}
	asked := ""
	ok := r.step("bob", "asks for the wiki", func() (detail string, err error) {
		asked, detail, err = bob.ask(ctx, "wiki")
		return detail, err
	})
	if ok && r.step("root-admin", "approves it", func() (string, error) { return root.approve(ctx, asked) }) {
		r.step("bob", "reads the wiki after all", func() (string, error) { return bob.readWiki(ctx) })
		r.step("root-admin", "asks why bob may", func() (string, error) { return root.explain(ctx, bob.user(), "wiki") })
	}
	r.step("root-admin", "cuts bob off", func() (string, error) { return root.cutOff(ctx, bob) })
	r.scene("The gateway's record")
	r.step("world", "proves itself whole", func() (string, error) { return w.verify(ctx) })
}

// api asks the gateway through the employee's own tunnel.
func (e *employee) api() (api *adminapi.Client, done func()) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		service, _, _ := strings.Cut(address, ":")
		return e.client.OpenBuiltIn(ctx, service)
	}}
	return &adminapi.Client{HTTP: &http.Client{Transport: transport, Timeout: patience}}, transport.CloseIdleConnections
}

// user is how administrators name the employee.
func (e *employee) user() string { return "demo:sub:" + e.subject }

// ask is what "culvert request" does.
func (e *employee) ask(ctx context.Context, service string) (id, detail string, err error) {
	api, done := e.api()
	defer done()
	asked, err := api.Ask(ctx, adminapi.RequestNew{Service: service, For: adminapi.Duration(10 * time.Minute), Reason: "a customer is waiting"})
	if err != nil {
		return "", "", err
	}
	return asked.ID, fmt.Sprintf("culvert request %s --for 10m --reason %q\nrequest %s waits for an approver", service, asked.Reason, asked.ID), nil
}

func (e *employee) approve(ctx context.Context, id string) (string, error) {
	api, done := e.api()
	defer done()
	decided, err := api.ApproveRequest(ctx, id, "")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("culvert admin requests approve %s\nuntil %s, and recorded as %s", id, decided.Until.Local().Format(time.TimeOnly), decided.Reference), nil
}

func (e *employee) explain(ctx context.Context, who, service string) (string, error) {
	api, done := e.api()
	defer done()
	why, err := api.PolicyExplain(ctx, adminapi.PolicyExplain{User: who, Target: service})
	if err != nil {
		return "", err
	}
	if !why.Answer.Allowed {
		return "", fmt.Errorf("the gateway says that %s may not reach %s: %s", who, service, why.Answer.Reason)
	}
	return fmt.Sprintf("culvert admin policy explain --as %s %s\nallowed by %s", who, service, why.Answer.Rule), nil
}

// cutOff locks somebody out who has a stream open, and sees it end.
func (e *employee) cutOff(ctx context.Context, other *employee) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := other.client.Open(ctx, wire.ServiceTarget(wire.KindTCP, "echo"), client.OpenOptions{Wait: true})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	if _, err := io.WriteString(stream, "x"); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
		return "", err
	}
	api, done := e.api()
	defer done()
	began := time.Now()
	if _, err := api.AddLock(ctx, adminapi.LockAdd{Kind: "user", Target: other.user(), Message: "Laptop was lost."}); err != nil {
		return "", err
	}
	_ = stream.SetReadDeadline(time.Now().Add(patience))
	_, err = stream.Read(make([]byte, 1))
	took := time.Since(began)
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return "", fmt.Errorf("the open stream went on, or ended as if it were whole: %w", err)
	}
	return fmt.Sprintf("culvert admin revoke %s --message \"Laptop was lost.\"\nan open stream ended %s after the command began: %v", other.user(), round(took), err), nil
}

// verify is what "culvert-gateway audit verify" does, while the log is written.
func (w *world) verify(ctx context.Context) (string, error) {
	report, err := audit.Verify(ctx, filepath.Join(w.dir, "gateway", "state", "audit"), audit.VerifyOptions{})
	if err != nil {
		return "", err
	}
	if !report.Whole {
		return "", fmt.Errorf("the audit log is not whole: %v", report.Faults)
	}
	return fmt.Sprintf("culvert-gateway audit verify\n%d records in a Merkle tree, none changed, removed or reordered", report.Records), nil
}
