//go:build linux && race

package e2e

// raced says that the race detector is on: everything in this program takes several times as long.
const raced = true
