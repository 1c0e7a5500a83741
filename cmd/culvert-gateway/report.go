package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/buildinfo"
)

// print writes v as JSON where --json was given, else the text.
func (p *program) print(v any, text string) error {
	if !p.json {
		_, err := fmt.Fprint(p.out, text)
		return err
	}
	enc := json.NewEncoder(p.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print which build this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := buildinfo.Read()
			return p.print(info, "culvert-gateway "+info.String()+"\n")
		},
	}
}
