package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client/localapi"
	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/internal/buildinfo"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func (a *app) servicesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "services",
		Short: "List the services behind the gateway, and which of them you may reach",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.services(cmd.Context()) },
	}
}

func (a *app) services(ctx context.Context) error {
	l, err := a.link(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	list, err := l.services(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(x, y wire.Service) int { return strings.Compare(x.Name, y.Name) })
	if a.json {
		return a.printJSON(localapi.ServicesFromWire(list))
	}
	age, err := loginAge(ctx, l)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		a.printf("no services are announced to you\n")
		return nil
	}
	rows := make([][]string, 0, len(list))
	for _, s := range list {
		rows = append(rows, []string{s.Name, kindText(s), where(s), access(s, age), s.Description})
	}
	return adminctl.List(a.out, adminctl.LineWidth(a.out), []string{"NAME", "KIND", "WHERE", "ACCESS", "DESCRIPTION"}, 2, rows)
}

func kindText(s wire.Service) string {
	if s.Label != "" {
		return string(s.Kind) + "/" + s.Label
	}
	return string(s.Kind)
}

// where says what the desktop calls a service.
func where(s wire.Service) string {
	var parts []string
	for _, host := range s.Hostnames {
		parts = append(parts, net.JoinHostPort(host, strconv.Itoa(int(s.Port))))
	}
	for _, network := range s.Networks {
		parts = append(parts, network.String())
	}
	for _, p := range s.Ports {
		parts = append(parts, portText(p))
	}
	if len(parts) == 0 && s.Port != 0 {
		parts = append(parts, "port "+strconv.Itoa(int(s.Port)))
	}
	return joinList(parts)
}

func portText(p wire.PortRange) string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// loginAge is how long ago the person signed in at the provider, by the gateway's clock; negative: unknown.
func loginAge(ctx context.Context, l link) (time.Duration, error) {
	s, err := l.status(ctx)
	if err != nil || s.Session.AuthTime.IsZero() {
		return -1, err
	}
	return max(time.Now().Add(s.Gateway.Skew).Sub(s.Session.AuthTime), 0), nil
}

// freshLogin says that an allowed service asks for a fresh login now; empty when it does not.
func freshLogin(s wire.Service, age time.Duration) string {
	switch {
	case !s.Allowed || s.MaxAge == 0 || age >= 0 && age <= s.MaxAge:
		return ""
	case age < 0:
		return "asks for a fresh login (at most " + shortDuration(s.MaxAge) + " old)"
	}
	if age > time.Hour {
		age = age.Truncate(time.Minute)
	}
	return "asks for a fresh login (at most " + shortDuration(s.MaxAge) + " old; yours is " + shortDuration(age) + " old)"
}

func access(s wire.Service, age time.Duration) string {
	fresh := freshLogin(s, age)
	switch {
	case fresh != "":
		return fresh
	case s.Allowed:
		return "yes"
	case s.Reason != "":
		return "no: " + s.Reason + requestText(s, "; ask: ")
	default:
		return "no" + requestText(s, "; ask: ")
	}
}

// requestText is how to ask for a service that can be asked for; empty for others.
func requestText(s wire.Service, before string) string {
	if s.Allowed || s.Requestable <= 0 {
		return ""
	}
	return before + "culvert request " + s.Name + " --for " + shortDuration(min(s.Requestable, 2*time.Hour)) + " --reason …"
}

// shortDuration is "2h" where Go prints "2h0m0s".
func shortDuration(d time.Duration) string {
	if d < time.Second {
		return d.String()
	}
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func joinList(list []string) string { return strings.Join(list, ", ") }

// completeServices offers what a running culvert up knows.
func (a *app) completeServices(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeWhere(cmd, args, prefix, func(s wire.Service) bool { return s.Allowed })
}

// completeWhere offers the services that fit, of those that a running culvert up knows; it never connects.
func (a *app) completeWhere(cmd *cobra.Command, args []string, prefix string, fits func(wire.Service) bool) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || a.start() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	cfg, err := a.config(quiet)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	list, _ := a.local(cfg).Services(ctx)
	var names []string
	for _, s := range list {
		if fits(s) && strings.HasPrefix(s.Name, prefix) {
			names = append(names, s.Name+"\t"+s.Description)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) pingCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ping [SERVICE|HOST:PORT]",
		Short: "Measure the way to the gateway, or through it to a service",
		Long: `Without SERVICE it is one round trip to the gateway. With SERVICE a stream is opened
and closed again: the time includes the gateway's decision and its connection to
the service.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return a.ping(cmd.Context(), name)
		},
	}
}

// pingReport is what ping --json prints.
type pingReport struct {
	Gateway string        `json:"gateway"`
	Service string        `json:"service,omitempty"`
	RTT     time.Duration `json:"rtt_ns"`            // to the gateway
	Open    time.Duration `json:"open_ns,omitempty"` // of a stream to the service
}

func (a *app) ping(ctx context.Context, name string) error {
	if name != "" {
		if _, err := parseTarget(wire.KindTCP, name); err != nil {
			return err
		}
	}
	l, err := a.link(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	s, err := l.status(ctx)
	if err != nil {
		return err
	}
	report := pingReport{Gateway: s.Gateway.Address, Service: name}
	if report.RTT, err = l.ping(ctx); err != nil {
		return err
	}
	if !a.json { // before what the service says: the gateway is not at fault then
		a.printf("gateway %s: %s\n", report.Gateway, report.RTT.Round(10*time.Microsecond))
	}
	if name != "" {
		if report.Open, err = a.pingService(ctx, l, name); err != nil {
			return err
		}
	}
	if a.json {
		return a.printJSON(report)
	}
	if name != "" {
		a.printf("%s: reachable, stream opened in %s\n", name, report.Open.Round(10*time.Microsecond))
	}
	return nil
}

func (a *app) pingService(ctx context.Context, l link, name string) (time.Duration, error) {
	list, err := l.services(ctx)
	if err != nil {
		return 0, err
	}
	target, _, err := resolve(list, name)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	stream, err := l.open(ctx, target, true)
	if err != nil {
		return 0, err
	}
	took := time.Since(begun)
	return took, stream.Close()
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := buildinfo.Read()
			if a.json {
				return a.printJSON(info)
			}
			a.printf("culvert %s, protocol version %d\n", info, wire.ProtocolVersion)
			return nil
		},
	}
}
