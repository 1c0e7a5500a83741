package adminctl

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// completionPatience is how long a shell waits for names before a person would rather type.
const completionPatience = time.Second

// suggestions asks the API for names, where a way to it is at hand. Whatever goes wrong completes to nothing.
func (c *ctl) suggestions(cmd *cobra.Command, prefix string, names func(ctx context.Context, api *adminapi.Client) []string) ([]string, cobra.ShellCompDirective) {
	if c.Peek == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionPatience)
	defer cancel()
	var found []string
	_ = c.over(ctx, c.Peek, func(ctx context.Context, api *adminapi.Client) error {
		for _, name := range names(ctx, api) {
			if strings.HasPrefix(name, prefix) {
				found = append(found, name)
			}
		}
		return nil
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeUser offers the people whom the gateways have seen.
func (c *ctl) completeUser(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return c.suggestions(cmd, prefix, func(ctx context.Context, api *adminapi.Client) []string {
		page, err := api.Users(ctx, adminapi.UserQuery{List: adminapi.List{Limit: adminapi.MaxLimit}})
		if err != nil {
			return nil
		}
		var names []string
		for _, u := range page.Items {
			names = append(names, person(u.Person))
			if u.Email != "" {
				names = append(names, clean(u.Email))
			}
		}
		return names
	})
}

// completeService offers the policy's services: what anybody gets is a list of all of them.
func (c *ctl) completeService(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.suggestions(cmd, prefix, func(ctx context.Context, api *adminapi.Client) []string {
		anybody, err := api.Users(ctx, adminapi.UserQuery{List: adminapi.List{Limit: 1}})
		if err != nil || len(anybody.Items) == 0 {
			return nil
		}
		page, err := api.PolicyWhat(ctx, adminapi.WhatQuery{User: anybody.Items[0].ID, List: adminapi.List{Limit: adminapi.MaxLimit}})
		if err != nil {
			return nil
		}
		var names []string
		for _, a := range page.Items {
			names = append(names, clean(a.Service))
		}
		return names
	})
}
