package admin

import (
	"context"
	"encoding/json"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// handlers says what answers each route.
func (a *API) handlers() map[adminapi.RouteID]handler {
	return map[adminapi.RouteID]handler{
		adminapi.RouteOpenAPI: plain(a.openAPI),
		adminapi.RouteWhoami:  plain(a.whoami),

		adminapi.RoutePolicy:         plain(a.policy),
		adminapi.RoutePolicyVersions: query(a.policyVersions),
		adminapi.RoutePolicyVersion:  plain(a.policyVersion),
		adminapi.RoutePolicyCheck:    message(a.policyCheck),
		adminapi.RoutePolicyApply:    message(a.policyApply),
		adminapi.RoutePolicyRollback: message(a.policyRollback),
		adminapi.RoutePolicyDiff:     message(a.policyDiff),
		adminapi.RoutePolicyExplain:  message(a.policyExplain),
		adminapi.RoutePolicyWho:      query(a.policyWho),
		adminapi.RoutePolicyWhat:     query(a.policyWhat),

		adminapi.RouteSessions:   query(a.sessions),
		adminapi.RouteSession:    plain(a.session),
		adminapi.RouteSessionEnd: message(a.sessionEnd),
		adminapi.RouteLocks:      query(a.locks),
		adminapi.RouteLockAdd:    message(a.lockAdd),
		adminapi.RouteLockRemove: plain(a.lockRemove),

		adminapi.RouteRequests:       query(a.requests),
		adminapi.RouteRequest:        plain(a.request),
		adminapi.RouteRequestApprove: message(a.requestApprove),
		adminapi.RouteRequestDeny:    message(a.requestDeny),
		adminapi.RouteRequestEnd:     message(a.requestEnd),

		adminapi.RouteAudit:          query(a.audit),
		adminapi.RouteAuditReference: plain(a.auditReference),
		adminapi.RouteDevices:        query(a.devices),
		adminapi.RouteCertificates:   query(a.certificates),
		adminapi.RouteGateways:       query(a.gateways),
		adminapi.RouteUsers:          query(a.users),

		adminapi.RouteOwnRequestNew:   message(a.ownRequestNew),
		adminapi.RouteOwnRequests:     query(a.ownRequests),
		adminapi.RouteOwnRequestLeave: plain(a.ownRequestWithdraw),
	}
}

func (a *API) openAPI(context.Context, *call) (*json.RawMessage, error) {
	document := json.RawMessage(a.document)
	return &document, nil
}

func (a *API) whoami(_ context.Context, c *call) (*adminapi.Whoami, error) {
	return &adminapi.Whoami{
		Name: c.caller.name(), User: string(c.caller.user()), Via: c.caller.Via, Roles: append([]adminapi.Role{}, c.caller.Roles...),
		Gateway: a.Gateway, Version: a.Version, Policy: a.source(),
	}, nil
}

// source is how the store and the API call where policies come from.
func (a *API) source() string {
	if a.Managed {
		return "managed"
	}
	return "file"
}
