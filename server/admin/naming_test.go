package admin

import (
	"fmt"
	"testing"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// A partner's provider makes accounts with somebody's address by the dozen: who names the person with our provider finds them, and
// never somebody else.
func TestThreatAddressOfManyAccounts(t *testing.T) {
	w := newWorld(t)
	ada := identity("corp", "ada")
	w.login(ada)
	for i := range 60 {
		id := identity("partner", fmt.Sprint("made-up-", i))
		id.Email = ada.Email
		w.login(id)
	}
	c := w.as(editor("ed"))
	added := must[*adminapi.LockAdded](t)(c.AddLock(t.Context(), adminapi.LockAdd{Kind: "user", Target: "corp:ada@corp.example"}))
	if added.Target != string(ada.UserID()) {
		t.Errorf("the lock is on %s, want %s", added.Target, ada.UserID())
	}
	_, err := c.AddLock(t.Context(), adminapi.LockAdd{Kind: "user", Target: "ada@corp.example"})
	if p := refused(t, err, adminapi.CodeAmbiguous); len(p.Candidates) != maxCandidates {
		t.Errorf("%d candidates, want %d", len(p.Candidates), maxCandidates)
	}
}

// A lock on a group that certificates leave out would be made, shown, and cut nobody.
func TestThreatLockOnAGroupThatIsNotKept(t *testing.T) {
	w := newWorld(t)
	w.api.Kept = func(provider, group string) bool { return provider == "corp" && group == "engineering" }
	c := w.as(editor("ed"))
	_, err := c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/contractors"})
	refused(t, err, adminapi.CodeBadRequest)
	must[*adminapi.LockAdded](t)(c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/engineering"}))
}

// With one provider a group is enough, as in the policy; with a provider in front it has to be that one.
func TestLockOnAGroupOfTheOnlyProvider(t *testing.T) {
	w := newWorld(t)
	w.api.OnlyProvider = "corp"
	c := w.as(person("editor", nil, adminapi.RoleEditor))
	for _, target := range []string{"engineering", "corp/engineering"} {
		if l := must[*adminapi.LockAdded](t)(c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: target})); l.Target != "corp/engineering" {
			t.Errorf("%s: locked %s", target, l.Target)
		}
	}
	_, err := c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "nowhere/engineering"})
	refused(t, err, adminapi.CodeNotFound)
}
