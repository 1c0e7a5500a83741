package login

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/internal/devidp"
)

func TestDeviceLogin(t *testing.T) {
	idp, config, _ := startIDP(t)
	for _, allow := range []bool{true, false} {
		g := newGateway(t, config)
		g.fail = []*enroll.Problem{refusal(http.StatusServiceUnavailable, enroll.CodeStoreUnavailable, "a blip"), nil}
		out := &lines{found: make(chan string, 1)}
		r := request(t, g, &person{t: t})
		r.DeviceCode, r.Out = true, out
		confirmed := make(chan error, 1)
		go func() {
			address := <-out.found
			g.mu.Lock()
			code := g.device.UserCode
			g.mu.Unlock()
			confirmed <- devidp.Browser{}.ConfirmDevice(t.Context(), address, code, "ada", devidp.DefaultPassword, allow)
		}()
		result, err := Login(t.Context(), r)
		if err := <-confirmed; err != nil {
			t.Fatal(err)
		}
		var problem *enroll.Problem
		switch {
		case allow && err != nil:
			t.Fatal(err)
		case allow && (result.RefreshToken == "" || g.identity.Login != auth.LoginDevice || len(result.Provider.Granted) == 0):
			t.Errorf("%+v", result)
		case !allow && (!errors.As(err, &problem) || problem.Code != enroll.CodeDeviceDenied):
			t.Errorf("refused: %v", err)
		}
		if !strings.Contains(out.all.String(), "\n"+g.device.UserCode+"\n") || !strings.Contains(out.all.String(), "\n"+idp.Issuer()+"/device\n") {
			t.Errorf("printed %q", out.all.String())
		}
	}
}

func TestDeviceLoginIsInterrupted(t *testing.T) {
	_, config, _ := startIDP(t)
	r := request(t, newGateway(t, config), &person{t: t})
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	out := &lines{found: make(chan string, 1)}
	r.DeviceCode, r.Out = true, out
	go func() { <-out.found; cancel(interrupted) }()
	if _, err := Login(ctx, r); !errors.Is(err, interrupted) {
		t.Error(err)
	}
}

// Class: strings from the gateway executed or obeyed (CVE-2022-41924).
func TestThreatDeviceAnswerIsChecked(t *testing.T) {
	good := enroll.DeviceReply{UserCode: "ABCD-EFGH", VerificationURI: "https://idp.example/device"}
	for name, change := range map[string]func(*enroll.DeviceReply){
		"file":          func(d *enroll.DeviceReply) { d.VerificationURI = "file:///etc/passwd" },
		"line break":    func(d *enroll.DeviceReply) { d.VerificationURI = "https://idp.example/\nhttps://evil.example" },
		"no address":    func(d *enroll.DeviceReply) { d.VerificationURI = "" },
		"no code":       func(d *enroll.DeviceReply) { d.UserCode = "" },
		"escape":        func(d *enroll.DeviceReply) { d.UserCode = "AB\x1b[2J" },
		"code too long": func(d *enroll.DeviceReply) { d.UserCode = strings.Repeat("A", 65) },
	} {
		d := good
		change(&d)
		out := &lines{found: make(chan string, 1)}
		if err := (Request{Out: out}).showCode(&d); err == nil || out.all.Len() > 0 {
			t.Errorf("%s: %v, printed %q", name, err, out.all.String())
		}
	}
	good.VerificationURIComplete = "javascript:alert(1)"
	out := &lines{found: make(chan string, 1)}
	if err := (Request{Out: out}).showCode(&good); err != nil || strings.Contains(out.all.String(), "javascript") {
		t.Errorf("%v, printed %q", err, out.all.String())
	}
}
