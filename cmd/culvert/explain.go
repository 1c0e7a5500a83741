package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain SERVICE|HOST:PORT",
		Short: "Say whether you may reach a service, and if not, why and what helps",
		Long: `Asks the gateway. A refusal comes with the reason, with what you can do, and with a
reference that your administrator finds. A service that your login is too old for is
yours: it asks for a fresh one when a program connects. The exit code is 0 when you may, 4 when not.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.explain(cmd.Context(), args[0]) },
	}
}

// explanation is what explain --json prints.
type explanation struct {
	Target    string    `json:"target"`
	Allowed   bool      `json:"allowed"`
	Login     string    `json:"login,omitempty"` // that it asks for a fresh login now
	Where     string    `json:"where,omitempty"`
	Code      wire.Code `json:"code,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Remedy    string    `json:"remedy,omitempty"`
	Reference string    `json:"reference,omitempty"`
	// Device is what the gateway is told of this device, where the reason has to do with it.
	Device status.Device `json:"device,omitempty"`
	// Request is the command that asks for access; empty where nobody can ask.
	Request string `json:"request,omitempty"`
}

func (a *app) explain(ctx context.Context, name string) error {
	if _, err := parseTarget(wire.KindTCP, name); err != nil {
		return err
	}
	l, err := a.link(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	list, err := l.services(ctx)
	if err != nil {
		return err
	}
	target, service, err := resolve(list, name)
	if err != nil {
		return err
	}
	e := explanation{Target: name, Where: where(service), Request: requestText(service, "")}
	if service.Allowed {
		age, err := loginAge(ctx, l)
		if err != nil {
			return err
		}
		e.Allowed, e.Login = true, freshLogin(service, age)
	} else if err := e.ask(ctx, l, target); err != nil {
		return err
	}
	if err := a.printExplanation(e); err != nil || e.Allowed {
		return err
	}
	return &quietError{exitDenied}
}

// ask opens what the list does not allow: the gateway says why not, and its audit log has it under the reference.
func (e *explanation) ask(ctx context.Context, l link, target wire.Target) error {
	stream, err := l.open(ctx, target, true)
	var refusal *wire.Refusal
	switch {
	case err == nil:
		e.Allowed = true // an address, or the list was older than the rules
		return stream.Close()
	case !errors.As(err, &refusal):
		return err
	case !refused(refusal.Code):
		e.Allowed = true // it is the service that does not answer
	}
	e.Code, e.Reason, e.Remedy, e.Reference = refusal.Code, refusal.Reason, refusalHint(refusal), refusal.Reference
	if !strings.Contains(e.Reason, "device.") {
		return nil
	}
	s, err := l.status(ctx)
	e.Device = s.Device
	return err
}

// refused tells the gateway's no from a service that cannot be reached.
func refused(code wire.Code) bool {
	switch code {
	case wire.CodeRefused, wire.CodeUnreachable, wire.CodeTimedOut:
		return false
	default:
		return true
	}
}

func (a *app) printExplanation(e explanation) error {
	if a.json {
		return a.printJSON(e)
	}
	switch {
	case e.Allowed && e.Code != "":
		a.printf("%s: you may reach it, but it does not answer (%s)\n", e.Target, e.Reason)
	case e.Login != "":
		a.printf("%s: you may reach it; it %s\n", e.Target, e.Login)
	case e.Allowed:
		a.printf("%s: you may reach it\n", e.Target)
	default:
		a.printf("%s: no, %s\n", e.Target, message(&wire.Refusal{Code: e.Code, Reason: e.Reason}))
	}
	helps := e.Remedy
	if e.Request != "" && strings.Contains(helps, "culvert request ") {
		helps = "" // the next line has it, ready to be copied
	}
	for _, row := range [][2]string{{"where", e.Where}, {"this device", e.Device.String()}, {"what helps", helps}, {"ask for it", e.Request}, {"reference", e.Reference}} {
		if row[1] != "" {
			a.printf("  %s: %s\n", row[0], row[1])
		}
	}
	return nil
}
