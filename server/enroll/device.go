package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/store"
)

// slowDown is what RFC 8628 section 3.5 adds to the interval.
const slowDown = 5 * time.Second

// deviceStart begins a device login (RFC 8628) for a certificate request. The
// provider's device code, which could collect the tokens, stays here, sealed
// with the id that only the client gets.
func (h *Handler) deviceStart(ctx context.Context, c *call) (int, any, error) {
	m, err := decode[enroll.DeviceRequest](c)
	if err != nil {
		return 0, nil, err
	}
	p, err := h.introduce(c, m.Client, m.Provider)
	if err != nil {
		return 0, nil, err
	}
	if !p.Config().Device {
		return 0, nil, refuse(enroll.CodeDeviceDisabled, "device logins are off for %s", p.Config().Name).
			remedy("log in with a browser: culvert login")
	}
	req, err := h.checkRequest(m.CSR, m.DeviceProof)
	if err != nil {
		return 0, nil, err
	}
	c.actor.Device = req.device
	provider, err := p.Provider(ctx)
	if err != nil {
		return 0, nil, providerRefusal(p, err)
	}
	started, err := provider.StartDevice(ctx)
	if err != nil {
		return 0, nil, deviceRefusal(p, err)
	}
	return h.keepGrant(ctx, store.DeviceGrant{
		Provider: m.Provider, CSR: m.CSR, Device: req.device, Client: c.client,
	}, started)
}

// keepGrant stores the login under way and tells the client what to show.
func (h *Handler) keepGrant(ctx context.Context, g store.DeviceGrant, started oidc.DeviceAuthorization) (int, any, error) {
	id := newGrantID()
	var err error
	if g.SealedCode, err = seal(id, purposeCode, []byte(started.DeviceCode.Reveal())); err != nil {
		return 0, nil, err
	}
	g.IDHash, g.Interval, g.Expires = hashID(id), started.Interval, started.Expires
	err = h.Store.PutGrant(ctx, g, h.Limits.DeviceLogins)
	if errors.Is(err, store.ErrTooMany) {
		return 0, nil, refuse(enroll.CodeRateLimited, "too many device logins are waiting at this gateway").
			remedy("try again in a minute, or log in with a browser").retryIn(time.Minute)
	}
	return http.StatusOK, enroll.DeviceReply{
		ID: id, UserCode: started.UserCode, VerificationURI: started.VerificationURI,
		VerificationURIComplete: started.VerificationURIComplete,
		Interval:                seconds(started.Interval), Expires: started.Expires.UTC(),
	}, err
}

func newGrantID() oidc.Secret {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return oidc.Secret(base64.RawURLEncoding.EncodeToString(b[:]))
}

func hashID(id oidc.Secret) string {
	sum := sha256.Sum256([]byte(id.Reveal()))
	return hex.EncodeToString(sum[:])
}

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// devicePoll asks the provider, at most once per interval, whether the person has
// confirmed, and issues the certificate if so.
func (h *Handler) devicePoll(ctx context.Context, c *call) (int, any, error) {
	m, err := decode[enroll.DevicePollRequest](c)
	if err != nil {
		return 0, nil, err
	}
	g, err := h.ownGrant(ctx, c, m)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case g.Redemption != "":
		return h.repeatDevice(ctx, c, g)
	case g.Failure != "":
		return 0, nil, deviceFailure(enroll.Code(g.Failure))
	case !h.Now().Before(g.Expires):
		return 0, nil, deviceFailure(enroll.CodeDeviceExpired)
	}
	if g.provider, err = h.provider(g.Provider); err != nil {
		return 0, nil, err
	}
	err = h.Store.ClaimPoll(ctx, g.IDHash)
	if errors.Is(err, store.ErrTooSoon) {
		return pending(g.Interval)
	}
	if err != nil {
		return 0, nil, err
	}
	return h.pollProvider(ctx, c, g)
}

// grant is a device login whose client has proved itself.
type grant struct {
	store.DeviceGrant
	id       oidc.Secret
	key      *ecdsa.PublicKey
	spki     []byte
	provider Provider
}

// ownGrant finds the login, and checks that its key is here: whoever learns the id
// alone gets nothing.
func (h *Handler) ownGrant(ctx context.Context, c *call, m *enroll.DevicePollRequest) (grant, error) {
	stored, err := h.Store.Grant(ctx, hashID(m.ID))
	if errors.Is(err, store.ErrNotFound) {
		return grant{}, deviceFailure(enroll.CodeDeviceExpired)
	}
	if err != nil {
		return grant{}, err
	}
	key, err := ca.CheckCSR(stored.CSR)
	if err != nil {
		return grant{}, err
	}
	if err := m.Verify(key); err != nil {
		return grant{}, refuse(enroll.CodeSignatureInvalid, "the key of the certificate request did not sign this poll").because(err)
	}
	c.client, c.actor.Provider, c.actor.Device = stored.Client, stored.Provider, stored.Device
	spki, err := x509.MarshalPKIXPublicKey(key)
	return grant{DeviceGrant: stored, id: m.ID, key: key, spki: spki}, err
}

func pending(interval time.Duration) (int, any, error) {
	return http.StatusAccepted, enroll.DevicePending{Interval: seconds(interval)}, nil
}

// pollProvider is the one who may ask the provider in this interval. It goes on
// where the client hangs up: the provider hands its tokens out once.
func (h *Handler) pollProvider(ctx context.Context, c *call, g grant) (int, any, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.Limits.Timeout)
	defer cancel()
	provider, err := g.provider.Provider(ctx)
	if err != nil {
		return 0, nil, providerRefusal(g.provider, err)
	}
	code, err := unseal(g.id, purposeCode, g.SealedCode)
	if err != nil {
		return 0, nil, err
	}
	tokens, err := provider.PollDevice(ctx, oidc.Secret(code))
	switch {
	case errors.Is(err, oidc.ErrPending):
		return pending(g.Interval)
	case errors.Is(err, oidc.ErrSlowDown):
		g.Interval += slowDown
		if err := h.Store.SlowGrant(ctx, g.IDHash, g.Interval); err != nil {
			return 0, nil, err
		}
		return pending(g.Interval)
	case err != nil:
		return 0, nil, h.endGrant(ctx, g, deviceRefusal(g.provider, err))
	}
	resp, err := h.completeDevice(ctx, c, g, tokens)
	if err != nil {
		return 0, nil, h.endGrant(ctx, g, err)
	}
	return http.StatusOK, resp, nil
}

// completeDevice exchanges the tokens that the gateway itself got.
func (h *Handler) completeDevice(ctx context.Context, c *call, g grant, tokens oidc.Tokens) (*enroll.Response, error) {
	claims, err := g.provider.VerifyDevice(ctx, oidc.Presented{IDToken: tokens.IDToken, AccessToken: tokens.AccessToken})
	if err != nil {
		return nil, providerRefusal(g.provider, err)
	}
	session, err := h.newSession(c, claims, g.Device, auth.LoginDevice)
	if err != nil {
		return nil, err
	}
	refresh, err := seal(g.id, purposeRefresh, []byte(tokens.RefreshToken.Reveal()))
	if err != nil {
		return nil, err
	}
	resp, err := h.issue(ctx, c, verified{
		provider: g.provider, claims: claims, key: g.key, keyHash: store.HashKey(g.spki),
		token: redemptionOfPayload(claims.PayloadHash), session: session,
		device: &store.DeviceIssuance{IDHash: g.IDHash, SealedRefresh: refresh},
	})
	if err != nil {
		return nil, err
	}
	resp.RefreshToken = tokens.RefreshToken
	return resp, nil
}

// repeatDevice answers a poll behind the successful one, whose answer was lost.
func (h *Handler) repeatDevice(ctx context.Context, c *call, g grant) (int, any, error) {
	issued, err := h.Store.Redeemed(ctx, g.Redemption, store.HashKey(g.spki))
	if err != nil {
		return 0, nil, err
	}
	refresh, err := unseal(g.id, purposeRefresh, g.SealedRefresh)
	if err != nil {
		return 0, nil, err
	}
	resp, err := h.respond(ctx, c, issued)
	if err != nil {
		return 0, nil, err
	}
	resp.RefreshToken = oidc.Secret(refresh)
	return http.StatusOK, resp, nil
}

// endGrant remembers a final failure, so that further polls do not reach the
// provider. What may pass is not one.
func (h *Handler) endGrant(ctx context.Context, g grant, err error) error {
	r := asRefusal(err)
	if statusOf(r.code) >= http.StatusInternalServerError {
		return err
	}
	if failErr := h.Store.FailGrant(ctx, g.IDHash, string(r.code)); failErr != nil {
		h.Logger.Warn("end a device login", "error", failErr)
	}
	return err
}

// deviceRefusal classifies the provider's answers of RFC 8628 section 3.5.
func deviceRefusal(p Provider, err error) error {
	var answer *oidc.ProviderError
	switch {
	case errors.Is(err, oidc.ErrDeviceExpired):
		return deviceFailure(enroll.CodeDeviceExpired)
	case errors.Is(err, oidc.ErrDeviceDenied):
		return deviceFailure(enroll.CodeDeviceDenied)
	case errors.Is(err, oidc.ErrUnavailable):
		return providerRefusal(p, err)
	case errors.As(err, &answer):
		return refuse(enroll.CodeDeviceDenied, "%s", answer.Error()).remedy(loginAgain).because(err)
	default:
		return providerRefusal(p, err)
	}
}

// deviceFailure words a final failure from its code alone.
func deviceFailure(code enroll.Code) error {
	switch code {
	case enroll.CodeDeviceExpired:
		return refuse(code, "nobody confirmed the login in time, or it was used already").remedy(loginAgain)
	case enroll.CodeDeviceDenied:
		return refuse(code, "the login was refused at the provider").remedy(loginAgain)
	default:
		return refuse(code, "the login failed").remedy(loginAgain)
	}
}
