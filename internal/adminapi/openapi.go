package adminapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Document returns the OpenAPI 3.1 document of the API, made from [Routes] and the types that they name. version is that of
// the program.
func Document(version string) ([]byte, error) {
	b := builder{schemas: make(map[string]any)}
	paths := make(map[string]map[string]any)
	problem, err := b.refTo(reflect.TypeFor[Problem]())
	if err != nil {
		return nil, err
	}
	for _, r := range Routes() {
		op, err := b.operation(r)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", r.ID, err)
		}
		if paths[r.Path] == nil {
			paths[r.Path] = map[string]any{"servers": []any{map[string]any{"url": "http://" + r.Service}}}
		}
		paths[r.Path][strings.ToLower(r.Method)] = op
	}
	doc := map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title":       "Culvert administration",
			"version":     version,
			"description": documentIntro,
		},
		"paths": paths,
		"components": map[string]any{
			"schemas": b.schemas,
			"responses": map[string]any{"problem": map[string]any{
				"description": "Problem details (RFC 9457).",
				"content":     map[string]any{TypeProblem: map[string]any{"schema": problem}},
			}},
		},
	}
	data, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	return append(data, '\n'), nil
}

const documentIntro = "Spoken over a stream of the tunnel to a service inside the gateway, or over the gateway's socket, for root and its own user; there is no port. " +
	"Who asks is known from that, so there is no authentication here. USER is provider:email, an e-mail address that names one " +
	"person, provider:sub:SUBJECT, or a user id. The server of a path is the name of that service."

// A builder collects the schemas of the types that it meets.
type builder struct{ schemas map[string]any }

func (b *builder) operation(r Route) (map[string]any, error) {
	reply := any(map[string]any{})
	if r.Reply != nil {
		ref, err := b.schema(reflect.TypeOf(r.Reply))
		if err != nil {
			return nil, err
		}
		reply = ref
	}
	media := TypeJSON
	if r.Lines {
		media = TypeLines
	}
	op := map[string]any{
		"operationId": string(r.ID), "summary": r.Summary,
		"x-culvert-role": r.needs(), "x-culvert-audited": r.Writes,
		"responses": map[string]any{
			"200":     map[string]any{"description": "Done.", "content": map[string]any{media: map[string]any{"schema": reply}}},
			"default": map[string]any{"$ref": "#/components/responses/problem"},
		},
	}
	if list, err := b.parameters(r); err != nil {
		return nil, err
	} else if len(list) > 0 {
		op["parameters"] = list
	}
	if r.Request != nil {
		ref, err := b.schema(reflect.TypeOf(r.Request))
		if err != nil {
			return nil, err
		}
		op["requestBody"] = map[string]any{"required": true, "content": map[string]any{TypeJSON: map[string]any{"schema": ref}}}
	}
	return op, nil
}

// needs says in words who may use a route.
func (r Route) needs() string {
	switch r.Admission {
	case ByAnyRole:
		return "any role, or approver of a service by the policy"
	case ByLogin:
		return "everybody who is logged in"
	case ByApproval:
		return string(r.Role) + ", or approver of the service by the policy"
	case ByRole:
	}
	return string(r.Role)
}

func (b *builder) parameters(r Route) ([]any, error) {
	var list []any
	for segment := range strings.SplitSeq(r.Path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			list = append(list, map[string]any{
				"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": map[string]any{"type": "string"},
			})
		}
	}
	if r.Query == nil {
		return list, nil
	}
	for _, p := range parameters(reflect.ValueOf(r.Query)) {
		schema, err := b.schema(p.field.Type)
		if err != nil {
			return nil, err
		}
		entry := map[string]any{"name": p.name, "in": "query", "schema": describe(schema, p.field, false)}
		if p.required {
			entry["required"] = true
		}
		if doc := p.field.Tag.Get("doc"); doc != "" {
			entry["description"] = doc
		}
		list = append(list, entry)
	}
	return list, nil
}

// schema returns the schema of a type; structs of this package become components.
func (b *builder) schema(t reflect.Type) (any, error) {
	switch t {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}, nil
	case reflect.TypeFor[Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`, "description": "As 90s, 15m or 1h30m."}, nil
	}
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}, nil
	case reflect.Bool:
		return map[string]any{"type": "boolean"}, nil
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer", "format": "int64"}, nil
	case reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}, nil
	case reflect.Pointer:
		return b.schema(t.Elem())
	case reflect.Slice:
		items, err := b.schema(t.Elem())
		return map[string]any{"type": "array", "items": items}, err
	case reflect.Struct:
		return b.refTo(t)
	default:
		return nil, fmt.Errorf("the type %s has no schema", t)
	}
}

// refTo returns a reference to the component of a struct, and makes that at its first use.
func (b *builder) refTo(t reflect.Type) (any, error) {
	name := schemaName(t)
	if name == "" {
		return nil, errors.New("a message without a name")
	}
	ref := map[string]any{"$ref": "#/components/schemas/" + name}
	if _, known := b.schemas[name]; known {
		return ref, nil
	}
	object := map[string]any{"type": "object"}
	b.schemas[name] = object
	properties, required := make(map[string]any), []string{}
	if err := b.fields(t, properties, &required); err != nil {
		return nil, err
	}
	object["properties"] = properties
	if len(required) > 0 {
		object["required"] = required
	}
	return ref, nil
}

// fields adds the fields of a struct, those of embedded ones included.
func (b *builder) fields(t reflect.Type, properties map[string]any, required *[]string) error {
	for f := range t.Fields() {
		if f.Anonymous {
			if err := b.fields(f.Type, properties, required); err != nil {
				return err
			}
			continue
		}
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if name == "" {
			return fmt.Errorf("the field %s.%s has no name", t, f.Name)
		}
		schema, err := b.schema(f.Type)
		if err != nil {
			return err
		}
		properties[name] = describe(schema, f, true)
		if option == "" {
			*required = append(*required, name)
		}
	}
	return nil
}

// describe adds what the tags of a field say.
func describe(schema any, f reflect.StructField, withDoc bool) any {
	s := schema.(map[string]any)
	if list := f.Tag.Get("enum"); list != "" {
		values := []any{}
		for v := range strings.SplitSeq(list, ",") {
			values = append(values, v)
		}
		target := s
		if items, ok := s["items"].(map[string]any); ok {
			target = items
		}
		target["enum"] = values
	}
	if doc := f.Tag.Get("doc"); doc != "" && withDoc {
		s["description"] = doc
	}
	return s
}

// schemaName is the name of the component of a type: "Session", and "SessionPage" for Page[Session].
func schemaName(t reflect.Type) string {
	name, parameter, generic := strings.Cut(t.Name(), "[")
	if !generic {
		return name
	}
	parameter = strings.TrimSuffix(parameter, "]")
	if quoted, err := strconv.Unquote(parameter); err == nil {
		parameter = quoted
	}
	return parameter[strings.LastIndexByte(parameter, '.')+1:] + name
}
