//go:build !unix

package certstore

import "testing"

func withUmask(*testing.T, int, func()) {}
