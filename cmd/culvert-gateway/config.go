package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-vpn/culvert/server"
)

// load reads the configuration with the environment and the given flags.
func (p *program) load(flags map[string]*pflag.Flag) (*server.Config, error) {
	cfg, err := server.LoadConfig(p.config, flags)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no configuration at %s: name it with --config, or make one with \"culvert-gateway init\"", p.config)
	}
	return cfg, err
}

func (p *program) configCommand() *cobra.Command {
	return p.group("config", "Check and show the configuration",
		&cobra.Command{
			Use: "check", Short: "Report everything that is wrong with configuration, CA, certificates and policy", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return p.configCheck() },
		},
		&cobra.Command{
			Use: "show", Short: "Show the settings that count and where each comes from, without secrets", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return p.configShow() },
		})
}

func (p *program) configCheck() error {
	cfg, err := p.load(nil)
	if err == nil {
		err = server.CheckFiles(cfg)
	}
	if err == nil {
		doubts, text := append([]string{}, cfg.Doubts()...), ""
		for _, doubt := range doubts {
			text += "warning: " + doubt + "\n"
		}
		return p.print(map[string]any{"ok": true, "config": p.config, "warnings": doubts}, text+p.config+": ok\n")
	}
	if p.json {
		if err := p.print(map[string]any{"ok": false, "config": p.config, "errors": lines(err)}, ""); err != nil {
			return err
		}
		return exitCode(exitError)
	}
	return err
}

func (p *program) configShow() error {
	cfg, err := p.load(nil)
	if cfg == nil {
		return err
	}
	if err != nil {
		p.complain(err) // and show it all the same: that is how the cause is found
	}
	show := cfg.ShowYAML
	if p.json {
		show = cfg.ShowJSON
	}
	text, showErr := show()
	if showErr != nil {
		return showErr
	}
	if _, writeErr := fmt.Fprintf(p.out, "%s\n", trimNewline(text)); writeErr != nil {
		return writeErr
	}
	if err != nil {
		return exitCode(exitError)
	}
	return nil
}
