// Package strictconf decodes YAML that people write, strictly: an unknown key,
// a key given twice, a wrong type or a second document is an error with file,
// line and column, and with the key that was probably meant. It gives values no
// meaning; the caller validates.
package strictconf

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxDepth bounds how deep documents nest; people's files have five levels.
const maxDepth = 64

// An Error is one fault of a file, at a place that an editor can jump to.
type Error struct {
	File         string
	Line, Column int // from 1; 0 where the fault has no place
	Msg          string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Msg)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// Errorf returns an Error at node's place; a nil node means the whole file.
func Errorf(file string, node *yaml.Node, format string, args ...any) *Error {
	e := &Error{File: file, Msg: fmt.Sprintf(format, args...)}
	if node != nil {
		e.Line, e.Column = node.Line, node.Column
	}
	return e
}

// Decode decodes data, the content of the file called name, into the struct
// that into points to. Field names come from `yaml` tags. All faults found are
// reported together (errors.Join of *Error). Anchors and aliases are refused:
// they let a small file become a huge one, and hide what a rule says. An empty
// file leaves into as it is.
func Decode(name string, data []byte, into any) error {
	root, err := Parse(name, data)
	if err != nil || root == nil {
		return err
	}
	return DecodeNode(name, root, into)
}

// Parse returns the root node of the one document in data, or nil when it is
// empty.
func Parse(name string, data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(name, err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, syntaxError(name, err)
		}
		return nil, Errorf(name, &second, "a second document starts here; one file holds one")
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

// syntaxError turns "yaml: line 3: did not find …" into an Error.
func syntaxError(name string, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(msg, "line %d:", &line); n == 1 {
		_, msg, _ = strings.Cut(msg, ": ")
		return &Error{File: name, Line: line, Column: 1, Msg: msg}
	}
	return &Error{File: name, Msg: msg}
}

// DecodeNode is Decode for a node that is parsed already.
func DecodeNode(name string, node *yaml.Node, into any) error {
	w := walker{file: name}
	w.check(node, reflect.TypeOf(into).Elem(), 0)
	if len(w.errs) > 0 {
		return errors.Join(w.errs...)
	}
	if err := node.Decode(into); err != nil {
		return decodeError(name, node, err)
	}
	return nil
}

// decodeError gives what the YAML library still refuses after the walk (the
// text of a custom unmarshaller, say) the form of an Error.
func decodeError(name string, node *yaml.Node, err error) error {
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	var typed *yaml.TypeError
	if !errors.As(err, &typed) {
		return Errorf(name, node, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var errs []error
	for _, text := range typed.Errors {
		errs = append(errs, syntaxError(name, errors.New(text)))
	}
	return errors.Join(errs...)
}

// A walker compares a tree of nodes with the Go type it goes into.
type walker struct {
	file string
	errs []error
}

func (w *walker) fault(node *yaml.Node, format string, args ...any) {
	w.errs = append(w.errs, Errorf(w.file, node, format, args...))
}

var (
	nodeType        = reflect.TypeFor[yaml.Node]()
	durationType    = reflect.TypeFor[time.Duration]()
	yamlUnmarshaler = reflect.TypeFor[yaml.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (w *walker) check(node *yaml.Node, t reflect.Type, depth int) {
	if depth > maxDepth {
		w.fault(node, "nested deeper than %d levels", maxDepth)
		return
	}
	if node.Kind == yaml.AliasNode || node.Anchor != "" {
		w.fault(node, "anchors and aliases are not accepted; write the value out")
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == nodeType || t.Kind() == reflect.Interface || reflect.PointerTo(t).Implements(yamlUnmarshaler):
		w.checkRaw(node, depth)
	case node.Tag == "!!null" && node.Kind == yaml.ScalarNode:
		// "key:" without a value is the zero value.
	case t == durationType:
		w.checkDuration(node)
	case reflect.PointerTo(t).Implements(textUnmarshaler):
		w.want(node, yaml.ScalarNode, "text")
	case t.Kind() == reflect.Struct:
		w.checkStruct(node, t, depth)
	case t.Kind() == reflect.Map:
		w.checkMap(node, t, depth)
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
		w.checkList(node, t, depth)
	default:
		w.checkScalar(node, t)
	}
}

// checkRaw holds the rules that need no type: no alias, no key twice.
func (w *walker) checkRaw(node *yaml.Node, depth int) {
	if depth > maxDepth {
		w.fault(node, "nested deeper than %d levels", maxDepth)
		return
	}
	if node.Kind == yaml.AliasNode || node.Anchor != "" {
		w.fault(node, "anchors and aliases are not accepted; write the value out")
		return
	}
	if node.Kind == yaml.MappingNode {
		w.checkKeys(node)
	}
	for _, c := range node.Content {
		w.checkRaw(c, depth+1)
	}
}

func (w *walker) checkKeys(node *yaml.Node) {
	seen := make(map[string]*yaml.Node, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			w.fault(key, "a key must be plain text")
			continue
		}
		if first := seen[key.Value]; first != nil {
			w.fault(key, "%q stands here a second time (first in line %d)", key.Value, first.Line)
			continue
		}
		seen[key.Value] = key
	}
}

func (w *walker) checkStruct(node *yaml.Node, t reflect.Type, depth int) {
	if !w.want(node, yaml.MappingNode, "a section with keys") {
		return
	}
	w.checkKeys(node)
	fields := Fields(t)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field, ok := fields[key.Value]
		if !ok {
			w.fault(key, "unknown key %q%s", key.Value, DidYouMean(key.Value, keys(fields)))
			continue
		}
		w.check(value, field, depth+1)
	}
}

func (w *walker) checkMap(node *yaml.Node, t reflect.Type, depth int) {
	if !w.want(node, yaml.MappingNode, "a section with keys") {
		return
	}
	w.checkKeys(node)
	for i := 0; i+1 < len(node.Content); i += 2 {
		w.check(node.Content[i+1], t.Elem(), depth+1)
	}
}

func (w *walker) checkList(node *yaml.Node, t reflect.Type, depth int) {
	if !w.want(node, yaml.SequenceNode, "a list") {
		return
	}
	for _, c := range node.Content {
		w.check(c, t.Elem(), depth+1)
	}
}

func (w *walker) checkDuration(node *yaml.Node) {
	if !w.want(node, yaml.ScalarNode, `a duration such as "90s" or "12h"`) {
		return
	}
	if _, err := time.ParseDuration(node.Value); err != nil {
		w.fault(node, `%q is no duration; write a number with a unit, such as "90s" or "12h"`, node.Value)
	}
}

func (w *walker) checkScalar(node *yaml.Node, t reflect.Type) {
	names := map[reflect.Kind]string{reflect.String: "text", reflect.Bool: "true or false"}
	what, ok := names[t.Kind()]
	if !ok {
		what = "a number"
	}
	if !w.want(node, yaml.ScalarNode, what) || t.Kind() == reflect.String {
		return
	}
	if err := node.Decode(reflect.New(t).Interface()); err != nil {
		w.fault(node, "%q is not %s", node.Value, what)
	}
}

func (w *walker) want(node *yaml.Node, kind yaml.Kind, what string) bool {
	if node.Kind == kind {
		return true
	}
	got := map[yaml.Kind]string{yaml.MappingNode: "a section", yaml.SequenceNode: "a list", yaml.ScalarNode: "a plain value"}[node.Kind]
	w.fault(node, "want %s here, got %s", what, got)
	return false
}

// Fields returns the keys that struct type t accepts with the types of their
// values; embedded structs marked `yaml:",inline"` give theirs.
func Fields(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case strings.Contains(opts, "inline"):
			for k, v := range Fields(f.Type) {
				fields[k] = v
			}
		case name == "":
			fields[strings.ToLower(f.Name)] = f.Type
		default:
			fields[name] = f.Type
		}
	}
	return fields
}

func keys(m map[string]reflect.Type) []string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}
