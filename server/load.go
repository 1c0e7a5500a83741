package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/internal/strictconf"
)

// EnvPrefix starts the name of every environment variable that sets a key.
const EnvPrefix = "CULVERT_GATEWAY_"

// envConfig names the configuration file itself and is no key of it.
const envConfig = EnvPrefix + "CONFIG"

// maxConfigFile bounds the configuration and the policy file.
const maxConfigFile = 4 << 20

// LoadConfig reads the YAML file at path, then the environment, then flags over
// the defaults, and validates the result. flags maps keys ("limits.https") to
// flags of which those that were given win over file and environment; it may be
// nil. A variable whose name starts with EnvPrefix and is no key is an error, as
// an unknown key of the file is. Relative paths become absolute, from the file's
// folder. The error lists all faults, each with its place; the configuration is
// not nil when only Validate found some, so that it can be shown.
func LoadConfig(path string, flags map[string]*pflag.Flag) (*Config, error) {
	data, err := readOwned(path, maxConfigFile)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	cfg, err := parseConfig(path, data)
	if err != nil {
		return nil, err
	}
	if err := cfg.overlay(data, flags); err != nil {
		return nil, err
	}
	if err := cfg.resolvePaths(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return cfg, cfg.Validate()
}

// readOwned reads a file that decides who gets in. One that every user of the
// machine may write to is refused: whoever changes it owns the gateway.
func readOwned(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so everybody on this machine may change it (chmod o-w it): %w", path, info.Mode().Perm(), durable.ErrNotPrivate)
	}
	return durable.ReadFile(path, limit)
}

// parseConfig decodes a file over the defaults. It goes before viper, which
// would accept any key, and lowercase those of maps such as a provider's
// extra_auth_params.
func parseConfig(name string, data []byte) (*Config, error) {
	cfg := DefaultConfig()
	cfg.file, cfg.origins = name, make(map[string]string)
	if err := strictconf.Decode(name, data, &cfg); err != nil {
		return nil, err
	}
	cfg.noteLines(data)
	return &cfg, nil
}

// overlay lets viper merge file, environment and flags (flags win, then the
// environment), and takes its verdict for every plain key that the file does
// not decide.
func (c *Config) overlay(data []byte, flags map[string]*pflag.Flag) error {
	v := viper.New()
	v.SetConfigType("yaml")
	v.AllowEmptyEnv(true)
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("read %s: %w", c.file, err)
	}
	settings, env := settingsOf(reflect.ValueOf(c).Elem(), ""), environment(os.Environ())
	errs := append(c.secretsFromEnvironment(env), unknownVariables(env, settings)...)
	for _, s := range settings {
		if err := c.overlayOne(v, s, env, flags[s.key]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.origins[s.key], err))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) overlayOne(v *viper.Viper, s setting, env map[string]string, flag *pflag.Flag) error {
	name, origin := envName(s.key), ""
	if err := v.BindEnv(s.key, name); err != nil {
		return err
	}
	if _, ok := env[name]; ok {
		origin = "environment " + name
	}
	if flag != nil {
		if err := v.BindPFlag(s.key, flag); err != nil {
			return err
		}
		if flag.Changed {
			origin = "flag --" + flag.Name
		}
	}
	if origin == "" {
		return nil
	}
	c.origins[s.key] = origin
	return s.set(v.GetString(s.key))
}

// noteLines remembers where the file sets which key.
func (c *Config) noteLines(data []byte) {
	root, err := strictconf.Parse(c.file, data)
	if err == nil && root != nil {
		c.noteNode(root, "")
	}
}

func (c *Config) noteNode(node *yaml.Node, key string) {
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		full := joinKey(key, name.Value)
		c.origins[full] = fmt.Sprintf("%s:%d:%d", c.file, name.Line, name.Column)
		c.noteNode(value, full)
	}
	for i, value := range node.Content {
		if node.Kind == yaml.SequenceNode {
			full := fmt.Sprintf("%s[%d]", key, i)
			c.origins[full] = fmt.Sprintf("%s:%d:%d", c.file, value.Line, value.Column)
			c.noteNode(value, full)
		}
	}
}

func joinKey(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// A setting is one plain key: text, number, switch, duration or list of texts.
type setting struct {
	key   string
	value reflect.Value
}

// settingsOf lists the plain keys of a section. Lists of sections (the
// providers) are not among them: they come from the file alone.
func settingsOf(section reflect.Value, prefix string) []setting {
	var all []setting
	for i := range section.NumField() {
		field, value := section.Type().Field(i), section.Field(i)
		key := joinKey(prefix, field.Tag.Get("yaml"))
		switch {
		case !field.IsExported():
		case value.Kind() == reflect.Struct:
			all = append(all, settingsOf(value, key)...)
		case value.Kind() == reflect.Slice && value.Type().Elem().Kind() != reflect.String:
		default:
			all = append(all, setting{key, value})
		}
	}
	return all
}

// set stores text as the environment and flags give it.
func (s setting) set(text string) error {
	switch s.value.Interface().(type) {
	case string:
		s.value.SetString(text)
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf(`%q is no duration; write a number with a unit, such as "90s" or "12h"`, text)
		}
		s.value.SetInt(int64(d))
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		s.value.SetInt(int64(n))
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		s.value.SetBool(b)
	default:
		s.value.Set(reflect.ValueOf(splitList(text)))
	}
	return nil
}

func splitList(text string) []string {
	var list []string
	for item := range strings.SplitSeq(strings.Trim(text, "[]"), ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

func envName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// environment returns the variables with our prefix.
func environment(environ []string) map[string]string {
	env := make(map[string]string)
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, EnvPrefix) {
			env[name] = value
		}
	}
	return env
}

// secretEnv is the variable that gives a provider's client secret, so that it
// need not stand in the file.
func secretEnv(provider string) string {
	return EnvPrefix + "PROVIDER_" + strings.ToUpper(strings.ReplaceAll(provider, "-", "_")) + "_CLIENT_SECRET"
}

func (c *Config) secretsFromEnvironment(env map[string]string) []error {
	for i, p := range c.Providers {
		if value, ok := env[secretEnv(p.Name)]; ok {
			c.Providers[i].ClientSecret = oidc.Secret(value)
			delete(env, secretEnv(p.Name))
		}
	}
	var errs []error
	for name := range env {
		if strings.HasPrefix(name, EnvPrefix+"PROVIDER_") {
			errs = append(errs, fmt.Errorf("environment %s: no provider of that name is configured", name))
			delete(env, name)
		}
	}
	return errs
}

func unknownVariables(env map[string]string, settings []setting) []error {
	known := []string{envConfig}
	for _, s := range settings {
		known = append(known, envName(s.key))
	}
	var errs []error
	for name := range env {
		if !slices.Contains(known, name) && !strings.HasPrefix(name, EnvPrefix+"PROVIDER_") {
			errs = append(errs, fmt.Errorf("environment %s: no setting has this name%s", name, strictconf.DidYouMean(name, known)))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// resolvePaths makes the paths of the file independent of the working folder.
func (c *Config) resolvePaths(base string) error {
	adminSocket := &c.Admin.Socket
	if *adminSocket == "off" {
		adminSocket = new(string)
	}
	for _, path := range []*string{&c.StateDir, &c.CADir, &c.Policy.File, &c.TLS.Certificate, &c.TLS.Key, &c.TLS.ACME.RootCA, adminSocket} {
		if *path == "" {
			continue
		}
		if !filepath.IsAbs(*path) {
			*path = filepath.Join(base, *path)
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("resolve %s: %w", *path, err)
		}
		*path = abs
	}
	return nil
}
