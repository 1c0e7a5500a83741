// Package archtest holds the shape of the project as tests: which package may
// import which, and one package comment per package. It has no code that other
// packages use.
package archtest
