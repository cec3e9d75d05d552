package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSystemdUnit reads the unit of docs/security.md, by systemd's own parser too where that is installed.
func TestSystemdUnit(t *testing.T) {
	page, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```ini\n")
	unit, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("there is no unit in docs/security.md")
	}
	for line := range strings.Lines(unit) {
		if !regexp.MustCompile(`^(\[(Unit|Service|Install)\]|[A-Z][A-Za-z]+=\S.*|)\n$`).MatchString(line) {
			t.Errorf("not a line of a unit: %q", line)
		}
	}
	for _, want := range []string{
		"AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW\n", "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW\n",
		"RuntimeDirectory=synproxyctl\nRuntimeDirectoryMode=0700\nRuntimeDirectoryPreserve=yes\n", "SupplementaryGroups=root\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %q", want)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd's own parser is not installed here")
		return
	}
	path := filepath.Join(t.TempDir(), "synproxyctl.service")
	// The program is not installed where the unit looks for it.
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(unit, "/usr/local/bin/synproxyctl", "/bin/true")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
