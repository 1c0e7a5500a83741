// Package login turns a person's login at an OpenID provider into a certificate: in the browser with the
// authorization code flow and PKCE ([Login]), on another device with a code ([Login] with DeviceCode), and
// later without a person by the refresh token ([Renew]). A session's person signs in again with [StepUp], where a
// service asks for a fresh login.
//
// In the browser flow, the answer comes back to a listener on the loopback address (RFC 8252) that takes one
// callback with the right state and nothing else. The nonce is bound to the key that is being enrolled, so that
// the ID token is worthless to anybody else.
//
// The package keeps nothing: what must be stored is in its results, and refreshed tokens are handed to the
// caller before they are used (see [RenewRequest.Save]). It takes no locks. It does not decide when to renew:
// package client does.
package login
