package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// Names of the key's files in the audit folder.
const (
	KeyFile    = "audit.key" // signs; 0600
	PublicFile = "audit.pub" // verifies; one line per key, the newest last
)

// maxNote bounds what is parsed as a checkpoint or a key.
const maxNote = 64 << 10

// A Checkpoint is a signed statement that the first Size records of a log have this Merkle root. Kept outside of the
// gateway it shows later whether any of them was removed, changed or reordered.
type Checkpoint struct {
	Origin string // "<origin>/<log>": which tree
	Log    string
	Size   uint64
	Root   tlog.Hash
	Note   string // the signed text, as https://c2sp.org/tlog-checkpoint has it
}

// ErrSignature reports a checkpoint whose signature is missing, wrong, or of a key that is not known.
var ErrSignature = errors.New("not signed by a known key")

// ParseCheckpoint parses a checkpoint and verifies its signature.
func ParseCheckpoint(text string, keys note.Verifiers) (Checkpoint, error) {
	if len(text) > maxNote {
		return Checkpoint{}, errors.New("parse checkpoint: too long")
	}
	n, err := note.Open([]byte(text), keys)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %w: %w", ErrSignature, err)
	}
	c, err := parseBody(n.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %w", err)
	}
	if !signsFor(n.Sigs, c.Origin) {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %w: the key is not of %s", ErrSignature, c.Origin)
	}
	c.Note = text
	return c, nil
}

// signsFor reports a signature by the key of the origin: its name is the origin without the log.
func signsFor(sigs []note.Signature, origin string) bool {
	for _, s := range sigs {
		if log, ok := strings.CutPrefix(origin, s.Name+"/"); ok && !strings.Contains(log, "/") {
			return true
		}
	}
	return false
}

// parseBody parses the text below the signatures: origin, size, root, and lines that a later version may add.
func parseBody(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 {
		return Checkpoint{}, errors.New("it has fewer than three lines")
	}
	slash := strings.LastIndexByte(lines[0], '/')
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if slash < 1 || err != nil || lines[1] != strconv.FormatUint(size, 10) {
		return Checkpoint{}, errors.New("origin or size is malformed")
	}
	c := Checkpoint{Origin: lines[0], Log: lines[0][slash+1:], Size: size}
	if c.Root, err = tlog.ParseHash(lines[2]); err != nil {
		return Checkpoint{}, errors.New("the root is malformed")
	}
	return c, nil
}

// sign returns the checkpoint of a tree.
func sign(signer note.Signer, log string, t *tree) (Checkpoint, error) {
	c := Checkpoint{Origin: signer.Name() + "/" + log, Log: log, Size: t.size, Root: t.root()}
	text, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)}, signer)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	c.Note = string(text)
	return c, nil
}

// ReadKeys reads public keys, one a line, as they stand in audit.pub. Empty lines and those with # are skipped.
func ReadKeys(path string) (note.Verifiers, error) {
	data, err := durable.ReadFile(path, maxNote)
	if err != nil {
		return nil, fmt.Errorf("read audit key: %w", err)
	}
	list, err := parseKeys(string(data))
	if err != nil {
		return nil, fmt.Errorf("read audit key %s: %w", path, err)
	}
	return note.VerifierList(list...), nil
}

func parseKeys(text string) ([]note.Verifier, error) {
	var list []note.Verifier
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := note.NewVerifier(line)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return list, nil
}

// keyOf returns the signer of a folder and its public key. The first start makes them.
func keyOf(dir, origin string) (signer note.Signer, public string, made bool, err error) {
	path := filepath.Join(dir, KeyFile)
	data, err := durable.ReadPrivate(path, maxNote)
	if made = errors.Is(err, fs.ErrNotExist); made {
		data, err = makeKey(path, origin)
	}
	if err != nil {
		return nil, "", false, fmt.Errorf("key of the audit log: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if signer, err = note.NewSigner(secret); err == nil {
		public, err = publicKey(signer.Name(), secret)
	}
	if err != nil {
		return nil, "", false, fmt.Errorf("key of the audit log %s: %w", path, err)
	}
	return signer, public, made, publish(filepath.Join(dir, PublicFile), public)
}

func makeKey(path, origin string) ([]byte, error) {
	secret, _, err := note.GenerateKey(rand.Reader, originName(origin))
	if err != nil {
		return nil, err
	}
	err = durable.CreateFile(path, []byte(secret+"\n"), 0o600)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		return durable.ReadPrivate(path, maxNote)
	}
	return []byte(secret), err
}

// publish appends a key to the public ones unless it stands there.
func publish(path, key string) error {
	data, err := durable.ReadFile(path, maxNote)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("publish audit key: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.TrimSpace(line) == key {
			return nil
		}
	}
	if err := durable.WriteFile(path, append(data, key+"\n"...), 0o600); err != nil {
		return fmt.Errorf("publish audit key: %w", err)
	}
	return nil
}

// publicKey derives the public key from a secret one: "PRIVATE+KEY+<name>+<hash>+<base64 of algorithm and seed>".
func publicKey(name, secret string) (string, error) {
	parts := strings.SplitN(secret, "+", 5) // of these only the last may contain a plus
	data, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(data) != 1+ed25519.SeedSize {
		return "", errors.New("it is not an Ed25519 key")
	}
	public, _ := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	return note.NewEd25519VerifierKey(name, public)
}

// originName makes a key's name of any text: no spaces, no plus (golang.org/x/mod/sumdb/note).
func originName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '+' || r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, s)
	if s == "" {
		return "culvert-gateway"
	}
	return s
}

// checkpointPath is where the newest checkpoint of a log stands. It is of records that are on the disk.
func checkpointPath(dir, log string) string { return filepath.Join(dir, log+checkpointSuffix) }

const checkpointSuffix = ".checkpoint"

// loadCheckpoint reads the newest checkpoint of a log; fs.ErrNotExist is no checkpoint.
func loadCheckpoint(dir, log string, keys note.Verifiers) (Checkpoint, error) {
	data, err := durable.ReadFile(checkpointPath(dir, log), maxNote)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := ParseCheckpoint(string(data), keys)
	if err == nil && c.Log != log {
		err = fmt.Errorf("it is of log %s", c.Log)
	}
	return c, err
}

// ReadCheckpoint reads a checkpoint that was kept elsewhere. Its signature is not verified: [Verify] does that.
func ReadCheckpoint(path string) (Checkpoint, error) {
	data, err := durable.ReadFile(path, maxNote)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	c, err := UnverifiedCheckpoint(strings.ReplaceAll(string(data), "\r\n", "\n"))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint %s: %w", path, err)
	}
	return c, nil
}

// UnverifiedCheckpoint parses the text of a checkpoint and leaves its signature to [Verify].
func UnverifiedCheckpoint(text string) (Checkpoint, error) {
	body, _, ok := strings.Cut(text, "\n\n")
	if !ok || len(text) > maxNote {
		return Checkpoint{}, errors.New("it is not a signed note")
	}
	c, err := parseBody(body + "\n")
	c.Note = text
	return c, err
}
