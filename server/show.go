package server

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/culvert-vpn/culvert/auth/oidc"
)

// hidden stands where a secret is set.
const hidden = "[secret]"

// Redacted returns a copy without secrets, to be shown.
func (c *Config) Redacted() *Config {
	shown := *c
	shown.Database = redactDatabase(c.Database)
	shown.Providers = slices.Clone(c.Providers)
	for i := range shown.Providers {
		shown.Providers[i] = shown.Providers[i].WithDefaults()
		if shown.Providers[i].ClientSecret != "" {
			shown.Providers[i].ClientSecret = oidc.Secret(hidden)
		}
	}
	return &shown
}

// redactDatabase hides the passwords of a database's address.
func redactDatabase(location string) string {
	if !strings.HasPrefix(location, "postgres") {
		return location
	}
	u, err := url.Parse(location)
	if err != nil {
		return hidden
	}
	query := u.Query()
	for _, key := range []string{"password", "sslpassword"} {
		if query.Has(key) {
			query.Set(key, "xxxxx")
			u.RawQuery = query.Encode()
		}
	}
	return u.Redacted()
}

// ShowYAML is the configuration that counts, without secrets, with the place
// that set each value as a comment behind it. What has no comment is a default.
func (c *Config) ShowYAML() ([]byte, error) {
	var node yaml.Node
	if err := node.Encode(c.Redacted()); err != nil {
		return nil, err
	}
	c.comment(&node, "")
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (c *Config) comment(node *yaml.Node, key string) {
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		full := joinKey(key, name.Value)
		if value.Kind == yaml.MappingNode {
			c.comment(value, full)
		} else if origin := c.origins[full]; origin != "" {
			commentOn(name, value, origin)
		}
	}
}

func commentOn(name, value *yaml.Node, origin string) {
	if value.Kind == yaml.SequenceNode && len(value.Content) > 0 {
		name.HeadComment = origin
		return
	}
	value.LineComment = origin
}

// ShowJSON is ShowYAML for programs: {"config": …, "origins": {KEY: PLACE}}.
func (c *Config) ShowJSON() ([]byte, error) {
	text, err := yaml.Marshal(c.Redacted())
	if err != nil {
		return nil, err
	}
	var plain map[string]any
	if err := yaml.Unmarshal(text, &plain); err != nil {
		return nil, err
	}
	return json.MarshalIndent(map[string]any{"config": plain, "origins": c.origins}, "", "  ")
}
