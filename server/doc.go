// Package server assembles a gateway from its parts and runs it: it reads the
// configuration, opens the store, the CA, the policy and the audit log, listens
// on the one port for tunnel and HTTPS (and on the loopback port for metrics),
// reloads what may change while it runs, and drains in order when it stops.
//
// [LoadConfig] and [New] are all that a program needs; [InitFiles] writes a first
// configuration. The package decides nothing about people or services: that is
// server/enroll, server/policy and server/gateway.
package server
