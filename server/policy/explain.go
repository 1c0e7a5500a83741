package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Remedies, for the person who was refused.
const (
	remedyAdmin    = "ask an administrator of this gateway, and give the reference"
	remedyLogin    = "log in again; if it stays so, tell an administrator and give the reference"
	remedyServices = "run \"culvert services\" to see what there is"
	remedySpell    = "check how it is written"
)

func (s *Set) badTarget(format string, args ...any) Decision {
	return Decision{
		Code: wire.CodeNoSuchService, Condition: ConditionBadTarget, Version: s.version,
		Reason: fmt.Sprintf(format, args...), Remedy: remedySpell,
	}
}

func (s *Set) unknown(format string, args ...any) Decision {
	return Decision{
		Code: wire.CodeNoSuchService, Condition: ConditionNoService, Version: s.version,
		Reason: fmt.Sprintf(format, args...), Remedy: remedyServices,
	}
}

func (s *Set) specialAddress(addr netip.Addr, what string) Decision {
	return Decision{
		Code: wire.CodeDenied, Condition: ConditionSpecialAddress, Version: s.version,
		Reason: fmt.Sprintf("%s is %s, which a gateway opens only where a service names it literally", addr.WithZone(""), what),
		Remedy: remedyAdmin,
	}
}

func (s *Set) otherAddress(at netip.AddrPort) Decision {
	return Decision{
		Code: wire.CodeDenied, Condition: ConditionOtherAddress, Version: s.version,
		Reason: fmt.Sprintf("%s is not the address that was decided", at), Remedy: remedyAdmin,
	}
}

// refuse explains a verdict that is not an allow.
func (s *Set) refuse(v *view, idx int32, verdict verdict) Decision {
	d := Decision{
		Code: wire.CodeDenied, Service: s.doc.Services[idx], Version: s.version,
		Condition: ConditionNoAllow, Reason: s.noAllow[idx], Remedy: remedyAdmin,
	}
	if verdict.denies() {
		r := &s.rules[verdict.rule()]
		d.Rule, d.Condition, d.Reason = r.name, ConditionDenied, r.reason
	}
	switch kind := verdict.kind(); {
	case kind == verdictDenyGroup:
		d.Condition, d.Remedy = ConditionGroupsUnknown, remedyLogin
		d.Reason = "the provider did not say which groups you are in, so a deny for a group applies to you: " + d.Reason
	case kind == verdictDenyEmail:
		d.Condition, d.Remedy = ConditionEmailUntrusted, remedyLogin
		d.Reason = "your provider does not vouch for an e-mail address of yours, so a deny for one applies to you: " + d.Reason
	case kind == verdictNone && v.groupsUnknown:
		d.Condition, d.Remedy = ConditionGroupsUnknown, remedyLogin
		d.Reason = "the provider did not say which groups you are in, so no rule for a group applies: " + d.Reason
	case kind == verdictNone && v.emailIgnored:
		d.Condition = ConditionEmailUntrusted
		d.Reason = "your provider does not vouch for your e-mail address, so no rule for it applies: " + d.Reason
	}
	return d
}

// maxNamedGroups is how many groups the reason of a default deny names.
const maxNamedGroups = 4

// explainDefaults writes the reason of each service's default deny: whom it is open to.
func (s *Set) explainDefaults() {
	groups := make([][]string, len(s.doc.Services))
	for i, r := range s.doc.Rules {
		for _, list := range s.rules[i].allow {
			for _, svc := range list {
				groups[svc] = addGroups(groups[svc], r.Groups)
			}
		}
	}
	s.noAllow = make([]string, len(s.doc.Services))
	for i, svc := range s.doc.Services {
		s.noAllow[i] = "no rule allows " + svc.Name + " to you" + openTo(groups[i])
	}
}

// addGroups adds up to one more than are named, which says that there are more.
func addGroups(names []string, refs []GroupRef) []string {
	for _, g := range refs {
		if len(names) > maxNamedGroups {
			return names
		}
		if name := short(g.Text, 64); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func openTo(groups []string) string {
	switch n := len(groups); {
	case n == 0:
		return ""
	case n == 1:
		return "; it is open to the group " + groups[0]
	case n > maxNamedGroups:
		return "; it is open to the groups " + strings.Join(groups[:maxNamedGroups], ", ") + " and others"
	default:
		return "; it is open to the groups " + strings.Join(groups, ", ")
	}
}

// quote returns s so that it can stand in a sentence: short, and nothing in it acts on a terminal.
func quote(s string) string { return strconv.QuoteToGraphic(short(s, 96)) }

// short cuts s to limit bytes, between characters.
func short(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
