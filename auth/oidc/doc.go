// Package oidc talks to OpenID providers: it discovers them, runs the authorization code flow with PKCE, the
// device grant and the refresh, verifies ID tokens and maps their claims.
//
// Both ends use it. The desktop has a [Provider], made by [Discover] from the [ClientSettings] that a gateway
// publishes: it sends people to the login page and exchanges codes and refresh tokens. The gateway has a
// [Verifier], made by [NewVerifier] from a [ProviderConfig]: it decides whether a token proves an identity.
// What a desktop says about a token counts for nothing; only the Verifier's [Claims] do.
//
// Everything that comes from a provider or a stranger is bounded before it is parsed: bodies, tokens and
// headers by size, requests by time, and addresses by where they lead (see [NewHTTPClient]).
//
// The package keeps no state on disk, does not know certificates, keys or sessions, does not redeem tokens
// once (server/enroll does), and shows no login page.
package oidc
