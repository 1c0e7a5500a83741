package adminapi

import (
	"net/http"
)

// RouteID names a route; it is the operation id in the OpenAPI document.
type RouteID string

// The routes of [ServiceAdmin], and behind them those of [ServiceSelf].
const (
	RouteOpenAPI         RouteID = "openapi"
	RouteWhoami          RouteID = "whoami"
	RoutePolicy          RouteID = "policy"
	RoutePolicyVersions  RouteID = "policyVersions"
	RoutePolicyVersion   RouteID = "policyVersion"
	RoutePolicyCheck     RouteID = "policyCheck"
	RoutePolicyApply     RouteID = "policyApply"
	RoutePolicyRollback  RouteID = "policyRollback"
	RoutePolicyDiff      RouteID = "policyDiff"
	RoutePolicyExplain   RouteID = "policyExplain"
	RoutePolicyWho       RouteID = "policyWho"
	RoutePolicyWhat      RouteID = "policyWhat"
	RouteSessions        RouteID = "sessions"
	RouteSession         RouteID = "session"
	RouteSessionEnd      RouteID = "sessionEnd"
	RouteLocks           RouteID = "locks"
	RouteLockAdd         RouteID = "lockAdd"
	RouteLockRemove      RouteID = "lockRemove"
	RouteRequests        RouteID = "requests"
	RouteRequest         RouteID = "request"
	RouteRequestApprove  RouteID = "requestApprove"
	RouteRequestDeny     RouteID = "requestDeny"
	RouteRequestEnd      RouteID = "requestEnd"
	RouteAudit           RouteID = "audit"
	RouteAuditReference  RouteID = "auditReference"
	RouteDevices         RouteID = "devices"
	RouteCertificates    RouteID = "certificates"
	RouteGateways        RouteID = "gateways"
	RouteUsers           RouteID = "users"
	RouteOwnRequestNew   RouteID = "ownRequestNew"
	RouteOwnRequests     RouteID = "ownRequests"
	RouteOwnRequestLeave RouteID = "ownRequestWithdraw"
)

// Admission says who may use a route besides those whom its role names. The zero value adds nobody.
type Admission int

// Admissions of a route.
const (
	ByRole     Admission = iota // who has the role, and nobody else
	ByApproval                  // also approvers of a service by the policy, for the requests of that service
	ByAnyRole                   // whoever has any role or may approve something
	ByLogin                     // everybody who is logged in; routes of ServiceSelf only
)

// Route is one operation of the API.
type Route struct {
	ID        RouteID
	Service   string // ServiceAdmin or ServiceSelf
	Method    string
	Path      string // segments in braces are parameters
	Role      Role   // that it needs; "" where the admission says it all
	Admission Admission
	Summary   string
	Query     any // a query struct, or nil: it takes no parameters
	Request   any // the message in the body, or nil: it takes none
	Reply     any // the message in the answer; nil: any JSON
	Lines     bool
	Writes    bool // it changes something, and is audited before it does
	MaxBody   int64
}

// Routes returns every route, those of a path together.
func Routes() []Route {
	routes := []Route{
		get(RouteOpenAPI, "/v1/openapi.json", "", "This document.", nil, nil).admit(ByAnyRole),
		get(RouteWhoami, "/v1/whoami", "", "Whom the gateway takes the caller for.", nil, Whoami{}).admit(ByAnyRole),

		get(RoutePolicy, "/v1/policy", RoleViewer, "The policy in force at this gateway.", nil, PolicyDocument{}),
		get(RoutePolicyVersions, "/v1/policy/versions", RoleViewer, "The accepted policies, the newest first.", List{}, Page[PolicyVersion]{}),
		get(RoutePolicyVersion, "/v1/policy/versions/{number}", RoleViewer, "One accepted policy.", nil, PolicyDocument{}),
		post(RoutePolicyCheck, "/v1/policy/check", RoleViewer, "Whether a policy would be accepted. Changes nothing.", PolicyText{}, PolicyCheck{}).reads().large(),
		post(RoutePolicyApply, "/v1/policy/apply", RoleEditor, "Put a policy into force. Refused where the policy is a file.", PolicyApply{}, PolicyApplied{}).large(),
		post(RoutePolicyRollback, "/v1/policy/rollback", RoleEditor, "Apply the document of an earlier version again, as a new version.", PolicyRollback{}, PolicyApplied{}),
		post(RoutePolicyDiff, "/v1/policy/diff", RoleViewer, "What a policy would change: by its meaning, and for recorded streams. Answers with lines of progress, and the result last.", PolicyDiff{}, DiffLine{}).reads().large().lines(),
		post(RoutePolicyExplain, "/v1/policy/explain", RoleViewer, "How a target would be decided, and why.", PolicyExplain{}, Explanation{}).reads().large(),
		get(RoutePolicyWho, "/v1/policy/who", RoleViewer, "Who, of the users seen, reaches a service. A page may have no entry and be followed by others.", WhoQuery{}, Page[Access]{}),
		get(RoutePolicyWhat, "/v1/policy/what", RoleViewer, "What a user gets at each service.", WhatQuery{}, Page[Access]{}),

		get(RouteSessions, "/v1/sessions", RoleViewer, "The sessions that are connected to any gateway.", SessionQuery{}, Page[Session]{}),
		get(RouteSession, "/v1/sessions/{id}", RoleViewer, "One session, with its connections, streams and certificates.", nil, SessionDetail{}),
		post(RouteSessionEnd, "/v1/sessions/{id}/end", RoleEditor, "End a session for good, at every gateway.", SessionEnd{}, SessionEnded{}),
		get(RouteLocks, "/v1/locks", RoleViewer, "The locks in force, the oldest first.", List{}, Page[Lock]{}),
		post(RouteLockAdd, "/v1/locks", RoleEditor, "Lock somebody or something out, or revoke what was issued by now.", LockAdd{}, LockAdded{}),
		del(RouteLockRemove, "/v1/locks/{id}", RoleEditor, "Lift a lock.", Done{}),

		get(RouteRequests, "/v1/requests", RoleViewer, "Requests, the newest first. Who only approves by the policy sees those that they may decide.", RequestQuery{}, Page[Request]{}).admit(ByApproval),
		get(RouteRequest, "/v1/requests/{id}", RoleViewer, "One request.", nil, Request{}).admit(ByApproval),
		post(RouteRequestApprove, "/v1/requests/{id}/approve", RoleApprover, "Approve a request of somebody else: the service is open to them from now on, for as long as they asked.", RequestDecide{}, RequestDecided{}).admit(ByApproval),
		post(RouteRequestDeny, "/v1/requests/{id}/deny", RoleApprover, "Deny a request of somebody else.", RequestDecide{}, RequestDecided{}).admit(ByApproval),
		post(RouteRequestEnd, "/v1/requests/{id}/end", RoleApprover, "End an approved request before its time, and its streams with it.", RequestDecide{}, RequestDecided{}).admit(ByApproval),

		get(RouteAudit, "/v1/audit", RoleViewer, "Audit records by the database's index, the newest first.", AuditQuery{}, Page[AuditRecord]{}),
		get(RouteAuditReference, "/v1/audit/{reference}", RoleViewer, "The audit records with a reference.", nil, AuditReference{}),
		get(RouteDevices, "/v1/devices", RoleViewer, "The devices that people logged in with.", DeviceQuery{}, Page[DeviceEntry]{}),
		get(RouteCertificates, "/v1/certificates", RoleViewer, "The certificates of a session or a user, or one by its serial number.", CertificateQuery{}, Page[Certificate]{}),
		get(RouteGateways, "/v1/gateways", RoleViewer, "The gateways that share the database.", List{}, Page[Gateway]{}),
		get(RouteUsers, "/v1/users", RoleViewer, "The people whom the gateways have seen.", UserQuery{}, Page[User]{}),
	}
	return append(routes, ownRoutes()...)
}

func ownRoutes() []Route {
	routes := []Route{
		post(RouteOwnRequestNew, "/v1/own/requests", "", "Ask for a service for some time.", RequestNew{}, RequestDecided{}),
		get(RouteOwnRequests, "/v1/own/requests", "", "The caller's own requests, the newest first.", OwnRequestQuery{}, Page[Request]{}),
		post(RouteOwnRequestLeave, "/v1/own/requests/{id}/withdraw", "", "Take an own request back; an approved one ends.", nil, RequestDecided{}),
	}
	for i := range routes {
		routes[i].Service, routes[i].Admission = ServiceSelf, ByLogin
	}
	return routes
}

func get(id RouteID, path string, role Role, summary string, query, reply any) Route {
	return Route{ID: id, Service: ServiceAdmin, Method: http.MethodGet, Path: path, Role: role, Summary: summary, Query: query, Reply: reply}
}

func post(id RouteID, path string, role Role, summary string, request, reply any) Route {
	return Route{
		ID: id, Service: ServiceAdmin, Method: http.MethodPost, Path: path, Role: role, Summary: summary,
		Request: request, Reply: reply, Writes: true, MaxBody: MaxRequest,
	}
}

func del(id RouteID, path string, role Role, summary string, reply any) Route {
	return Route{ID: id, Service: ServiceAdmin, Method: http.MethodDelete, Path: path, Role: role, Summary: summary, Reply: reply, Writes: true}
}

func (r Route) admit(a Admission) Route { r.Admission = a; return r }
func (r Route) reads() Route            { r.Writes = false; return r }
func (r Route) large() Route            { r.MaxBody = MaxPolicy; return r }
func (r Route) lines() Route            { r.Lines = true; return r }
