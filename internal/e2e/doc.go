// Package e2e tests the whole product with real parts: the built programs, an
// independent OpenID provider, OpenSSH, PostgreSQL, curl and dig. It holds
// tests only.
package e2e
