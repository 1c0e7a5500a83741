package oidc

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func documentOf(t testing.TB, text string) document {
	t.Helper()
	doc, err := parseDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestGroups(t *testing.T) {
	for name, test := range map[string]struct {
		key     string
		shape   GroupsShape
		claims  string
		want    []string // nil: unknown
		problem string
	}{
		"list":                {"groups", ShapeList, `{"groups":["b","a","b"]}`, []string{"a", "b"}, ""},
		"empty list":          {"groups", ShapeList, `{"groups":[]}`, []string{}, ""},
		"one as text":         {"groups", ShapeList, `{"groups":"a b"}`, []string{"a b"}, ""},
		"literal key":         {"https://corp.example/groups", ShapeList, `{"https://corp.example/groups":["a"]}`, []string{"a"}, ""},
		"literal with dots":   {"a.b", ShapeList, `{"a":{"b":["x"]},"a.b":["y"]}`, []string{"y"}, ""},
		"pointer":             {"/realm_access/roles", ShapeList, `{"realm_access":{"roles":["a"]}}`, []string{"a"}, ""},
		"pointer escapes":     {"/a~1b/c~0d", ShapeList, `{"a/b":{"c~d":["x"]}}`, []string{"x"}, ""},
		"pointer index":       {"/a/1", ShapeList, `{"a":[["x"],["y"]]}`, []string{"y"}, ""},
		"pointer index 01":    {"/a/01", ShapeList, `{"a":[["x"],["y"]]}`, nil, "no claim"},
		"pointer beyond":      {"/a/2", ShapeList, `{"a":[["x"],["y"]]}`, nil, "no claim"},
		"pointer into text":   {"/a/b", ShapeList, `{"a":"x"}`, nil, "no claim"},
		"string":              {"groups", ShapeString, `{"groups":"b, a ,,c d"}`, []string{"a", "b", "c d"}, ""},
		"string is a list":    {"groups", ShapeString, `{"groups":["a"]}`, nil, "shape string"},
		"map keys":            {"urn:roles", ShapeMapKeys, `{"urn:roles":{"admin":{"1":"x"},"dev":{}}}`, []string{"admin", "dev"}, ""},
		"map keys of a list":  {"groups", ShapeMapKeys, `{"groups":["a"]}`, nil, "shape map_keys"},
		"missing":             {"groups", ShapeList, `{}`, nil, `no claim "groups"`},
		"null":                {"groups", ShapeList, `{"groups":null}`, nil, "shape list"},
		"numbers":             {"groups", ShapeList, `{"groups":["a",1]}`, nil, "shape list"},
		"objects":             {"groups", ShapeList, `{"groups":[{"name":"a"}]}`, nil, "shape list"},
		"empty name":          {"groups", ShapeList, `{"groups":["a",""]}`, nil, "group name"},
		"control character":   {"groups", ShapeList, `{"groups":["a\nb"]}`, nil, "group name"},
		"bidi":                {"groups", ShapeList, `{"groups":["a\u202eb"]}`, nil, "group name"},
		"overage":             {"groups", ShapeList, `{"_claim_names":{"groups":"src1"},"_claim_sources":{"src1":{"endpoint":"https://graph"}}}`, nil, "too many groups"},
		"overage of pointer":  {"/groups/x", ShapeList, `{"_claim_names":{"groups":"src1"}}`, nil, "too many groups"},
		"overage by hasgroup": {"groups", ShapeList, `{"hasgroups":true}`, nil, "too many groups"},
		"wins over overage":   {"groups", ShapeList, `{"groups":["a"],"_claim_names":{"groups":"src1"}}`, []string{"a"}, ""},
		"case matters":        {"groups", ShapeList, `{"Groups":["a"]}`, nil, "no claim"},
	} {
		c := ProviderConfig{Claims: ClaimsConfig{Groups: test.key, Shape: test.shape}}
		got, problem := c.groups(documentOf(t, test.claims))
		if problem == "" && got == nil {
			got = []string{}
		}
		if !slices.Equal(got, test.want) || (problem == "") != (test.want != nil) || !strings.Contains(problem, test.problem) {
			t.Errorf("%s: %q, problem %q", name, got, problem)
		}
	}
}

// Class: e-mail as identity (headscale 0.24): only the JSON value true verifies an address.
func TestThreatEmailAsIdentity(t *testing.T) {
	for claims, trusts := range map[string][]string{
		`{"email":"ada@corp.example","email_verified":true}`:              {"verified", "always"},
		`{"email":"ada@corp.example"}`:                                    {"always"},
		`{"email":"ada@corp.example","email_verified":false}`:             {"always"},
		`{"email":"ada@corp.example","email_verified":"true"}`:            {"always"},
		`{"email":"ada@corp.example","email_verified":1}`:                 {"always"},
		`{"email":"ada@corp.example","email_verified":null}`:              {"always"},
		`{"email":"ada@corp.example","EMAIL_VERIFIED":true}`:              {"always"},
		`{"email":"ada@corp.example","xms_edov":true}`:                    {"always", "claim:xms_edov"},
		`{"email":"ada@corp.example","xms_edov":"1"}`:                     {"always", "claim:xms_edov"},
		`{"email":"ada@corp.example","xms_edov":1}`:                       {"always", "claim:xms_edov"},
		`{"email":"ada@corp.example","xms_edov":0}`:                       {"always"},
		`{"email":"ada@corp.example","xms_edov":["true"]}`:                {"always"},
		`{"email":["ada@corp.example"],"email_verified":true}`:            {},
		`{"email_verified":true}`:                                         {},
		`{"preferred_username":"ada@corp.example","email_verified":true}`: {},
	} {
		for _, trust := range []string{"verified", "never", "always", "claim:xms_edov"} {
			c := ProviderConfig{EmailTrust: trust, EmailDomains: []string{"corp.example"}}
			var out Claims
			c.person(documentOf(t, claims), &out)
			if want := slices.Contains(trusts, trust); out.EmailTrusted != want {
				t.Errorf("%s with %s: trusted %v", claims, trust, out.EmailTrusted)
			}
		}
	}
}

// Class: domain parsing (Coder CVE-2024-27918).
func TestThreatEmailDomainParsing(t *testing.T) {
	c := ProviderConfig{EmailTrust: "always", EmailDomains: []string{"corp.example"}}
	for email, want := range map[string]bool{
		"ada@corp.example": true, "ada@CORP.example": true, "ada+x@corp.example": true, "ada.b@corp.example": true,
		"ada@evil@corp.example": false, "ada@evilcorp.example": false, "ada@corp.example.evil": false,
		"ada@sub.corp.example": false, "ada@corp.example.": false, "@corp.example": false, "ada": false, "": false,
		"ada@": false, `"ada@evil"@corp.example`: false, "ada @corp.example": false, "ada@ corp.example": false,
		"ada@corp.example\n": false, "ada@corp.example\x00.evil": false, "<ada@corp.example>": false,
		"ada@cörp.example": false, "ada@corp。example": false, "ada,bob@corp.example": false, "(x)ada@corp.example": false,
		strings.Repeat("a", 300) + "@corp.example": false,
	} {
		payload, _ := json.Marshal(map[string]any{"email": email})
		var out Claims
		c.person(documentOf(t, string(payload)), &out)
		if out.EmailTrusted != want {
			t.Errorf("%q: trusted %v, want %v", email, out.EmailTrusted, want)
		}
	}
	none := ProviderConfig{EmailTrust: "always"}
	if none.emailTrusted(document{}, "ada@corp.example") {
		t.Error("an address counts although no domain is configured")
	}
}

func TestPersonIsReadable(t *testing.T) {
	for claims, want := range map[string]string{
		`{"name":"Ada","preferred_username":"ada"}`:        "Ada",
		`{"name":"","preferred_username":"ada"}`:           "ada",
		`{"name":"A\u001b[31mda","email":"ada@x.example"}`: "ada@x.example",
		`{"name":7}`: "",
	} {
		var out Claims
		ProviderConfig{}.person(documentOf(t, claims), &out)
		if out.Name != want {
			t.Errorf("%s: %q", claims, out.Name)
		}
	}
}

func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		`{"groups":["a","b"],"email":"ada@corp.example","email_verified":true}`, `{"groups":{"a":{}}}`,
		`{"_claim_names":{"groups":"x"}}`, `{"a":{"b":[["x"]]},"amr":["pwd"],"acr":"1","iat":1e3}`, `[]`, `{"groups":"a,b"}`,
	} {
		f.Add([]byte(seed), "groups", "list", "verified")
	}
	f.Add([]byte(`{"a":{"b/c":["x"]}}`), "/a/b~1c", "list", "claim:x")
	f.Fuzz(func(t *testing.T, data []byte, key, shape, trust string) {
		doc, err := parseDocument(data)
		if err != nil {
			return
		}
		c := ProviderConfig{Claims: ClaimsConfig{Groups: key, Shape: GroupsShape(shape)}, EmailTrust: trust, EmailDomains: []string{"corp.example"}}
		var out Claims
		c.person(doc, &out)
		groups, problem := c.groups(doc)
		if problem != "" && groups != nil {
			t.Fatal("unknown groups with names")
		}
		for _, name := range append(groups, out.Name, out.Email, out.ACR, out.SID) {
			if hasControl(name) {
				t.Fatalf("an unprintable text came through: %q", name)
			}
		}
		if out.EmailTrusted && (strings.Count(out.Email, "@") != 1 || !strings.HasSuffix(strings.ToLower(out.Email), "@corp.example")) {
			t.Fatalf("trusted %q", out.Email)
		}
	})
}
