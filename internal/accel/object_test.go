package accel

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compiler made the objects: another version may make others of the same source.
const compiler = "clang version 14."

// TestObjectsAreOfTheirSource compiles the program again, and gets what is committed.
func TestObjectsAreOfTheirSource(t *testing.T) {
	version, err := exec.Command("clang", "--version").Output()
	if err != nil {
		t.Fatalf("clang: %v; hint: run scripts/setup, which installs what the tests need", err)
	}
	if !strings.Contains(string(version), compiler) {
		if os.Getenv("CI") != "" {
			t.Fatalf("the objects are of %s; hint: make generate, and name the new version here", compiler)
		}
		t.Skipf("the objects are of %s, and here is %.40q", compiler, version)
	}
	source, err := os.ReadFile("generate.go")
	if err != nil {
		t.Fatal(err)
	}
	_, command, ok := strings.Cut(string(source), "//go:generate ")
	if !ok {
		t.Fatal("generate.go has no such line")
	}
	words := strings.Fields(command)
	dir := t.TempDir()
	words = append([]string{words[1], words[2], "-output-dir", dir, "-go-package", "accel"}, words[3:]...)
	if out, err := exec.Command("go", words...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(words, " "), err, out)
	}
	made, err := filepath.Glob(filepath.Join(dir, "bpf_*"))
	if err != nil || len(made) != 4 {
		t.Fatalf("made %q, %v", made, err)
	}
	for _, path := range made {
		name := filepath.Base(path)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := os.ReadFile(name); err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is not what its source gives (%v); hint: make generate", name, err)
		}
	}
}
