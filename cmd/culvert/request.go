package main

import (
	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// requestCommand asks for access for some time.
func (a *app) requestCommand() *cobra.Command {
	cmd := adminctl.RequestCommand(a.ctl(adminapi.ServiceSelf))
	cmd.ValidArgsFunction = a.completeRequestable
	return cmd
}

// completeRequestable offers what may be asked for, as far as a running culvert up knows.
func (a *app) completeRequestable(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeWhere(cmd, args, prefix, func(s wire.Service) bool { return !s.Allowed && s.Requestable > 0 })
}
