package rules

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFirstLine(t *testing.T) {
	for text, want := range map[string]string{
		"":            "",
		"\n \n":       "",
		"one\ntwo\n":  "one",
		"\n\r one \n": "one",
		"# Warning: legacy tables present\nfailed": "failed",
		"\x1b[31mred\x07\x7f\xff":                  "[31mred",
		"iptables-nft-restore v1.8.9 (nf_tables): \nline 3: CHAIN_DEL failed (Device or resource busy): chain A\n": "iptables-nft-restore v1.8.9 (nf_tables): line 3: CHAIN_DEL failed (Device or resource busy): chain A",
		"says nothing more:\n":     "says nothing more:",
		strings.Repeat("x", 1000):  strings.Repeat("x", 300),
		strings.Repeat("xü\n", 99): "xü",
	} {
		if got := firstLine(text); got != want {
			t.Errorf("firstLine(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, err := run(ctx, "/bin/sh", []byte("hello"), "-c", `cat; echo " $LC_ALL $HOME $PWD"`)
	if err != nil || string(out) != "hello C  /\n" {
		t.Errorf("%q, %v; want its own environment, and the root directory", out, err)
	}
	_, err = run(ctx, "/bin/sh", nil, "-c", "echo 'no luck' >&2; exit 3")
	var failed *ProgramError
	if !errors.As(err, &failed) || *failed != (ProgramError{"/bin/sh", 3, "no luck"}) || err.Error() != "/bin/sh: no luck" {
		t.Errorf("error %#v", err)
	}
	_, err = run(ctx, "/bin/sh", nil, "-c", "kill -9 $$")
	if !errors.As(err, &failed) || failed.Status != -1 {
		t.Errorf("error %#v", err)
	}
	if _, err = run(ctx, "/nonexistent/iptables-save", nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("error %v, want ErrUnsupported", err)
	}
	cancel()
	made := filepath.Join(t.TempDir(), "made")
	if _, err := run(ctx, "/bin/sh", nil, "-c", ": >"+made); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	if _, err := os.Stat(made); err == nil {
		t.Error("ran although the context had ended")
	}
}

func TestFindUnknown(t *testing.T) {
	if b, err := Find("ipchains"); err == nil || !strings.Contains(err.Error(), `backend "ipchains"`) {
		t.Errorf("Find = %v, %v", b, err)
	}
	if _, err := lookProgram("no-such-program"); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("lookProgram: %v", err)
	}
}
