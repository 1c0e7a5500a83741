package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

var testOptions = Options{TrustDomain: "corp.example", GatewayID: "gw-1"}

// newDir makes an authority and returns its folder.
func newDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := Init(dir, testOptions); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := Load(newDir(t))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// testIdentity is the one of auth's golden test.
func testIdentity() auth.Identity {
	return auth.Identity{
		Issuer: "https://idp.example.com/", Subject: "248289761001", Provider: "corp",
		Name: "Ada Lovelace", Email: "ada@corp.example", EmailTrusted: true,
		Groups: []string{"engineering", "on-call <primary>"}, GroupsKnown: true,
		ACR: "urn:mace:incommon:iap:silver", AMR: []string{"pwd", "otp"}, AuthTime: time.UnixMilli(1_796_000_000_000).UTC(),
		Login: auth.LoginBrowser, Session: "aebagbafaydqqcikbmga2dqpca",
		Device: auth.DeviceIDFromKey([]byte("device")), IssuedAt: time.UnixMilli(1_796_000_012_345).UTC(),
	}
}

func testProfile(t testing.TB) ClientProfile {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	return ClientProfile{Identity: testIdentity(), PublicKey: &testKey(t).PublicKey, NotBefore: now.Add(-Backdate), NotAfter: now.Add(time.Hour)}
}

func issueClient(t testing.TB, a *Authority, p ClientProfile) *Issued {
	t.Helper()
	issued, err := a.IssueClient(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	return issued
}
