package adminapi

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// EncodeQuery writes the fields of a query struct that are set as parameters, by their `query` tags.
func EncodeQuery(query any) url.Values {
	values := url.Values{}
	for _, f := range parameters(reflect.ValueOf(query)) {
		if f.value.IsZero() {
			continue
		}
		switch v := f.value.Interface().(type) {
		case time.Time:
			values.Set(f.name, v.UTC().Format(time.RFC3339Nano))
		default:
			values.Set(f.name, fmt.Sprint(v))
		}
	}
	return values
}

// DecodeQuery reads parameters into the query struct that into points to. A parameter that it does not have, one that is
// given twice, one that cannot be read and a required one that is missing are errors.
func DecodeQuery(values url.Values, into any) error {
	known := make(map[string]bool)
	for _, p := range parameters(reflect.ValueOf(into).Elem()) {
		known[p.name] = true
		given := values[p.name]
		switch {
		case len(given) > 1:
			return fmt.Errorf("the parameter %q comes twice", p.name)
		case len(given) == 0 || given[0] == "":
			if p.required {
				return fmt.Errorf("the parameter %q is missing", p.name)
			}
			continue
		}
		if err := p.set(given[0]); err != nil {
			return fmt.Errorf("the parameter %q: %w", p.name, err)
		}
	}
	for name := range values {
		if !known[name] {
			return fmt.Errorf("there is no parameter %.64q here", name)
		}
	}
	return nil
}

// A parameter is one field of a query struct.
type parameter struct {
	name     string
	required bool
	field    reflect.StructField
	value    reflect.Value
}

// parameters lists the fields of a query struct, those of embedded ones included.
func parameters(v reflect.Value) []parameter {
	var list []parameter
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			list = append(list, parameters(v.Field(i))...)
			continue
		}
		name, option, _ := strings.Cut(f.Tag.Get("query"), ",")
		list = append(list, parameter{name, option == "required", f, v.Field(i)})
	}
	return list
}

func (p *parameter) set(text string) error {
	if allowed := p.field.Tag.Get("enum"); allowed != "" && !contains(allowed, text) {
		return fmt.Errorf("%.64q is none of %s", text, allowed)
	}
	switch into := p.value.Addr().Interface().(type) {
	case *string:
		*into = text
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return fmt.Errorf("%.64q is no number", text)
		}
		*into = n
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%.64q is neither true nor false", text)
		}
		*into = text == "true"
	case *time.Time:
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return fmt.Errorf("%.64q is no time of RFC 3339", text)
		}
		*into = t
	}
	return nil
}

func contains(list, entry string) bool {
	for e := range strings.SplitSeq(list, ",") {
		if e == entry {
			return true
		}
	}
	return false
}
