package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/config"
)

const aDay = "2026-01-31"

func pages(t *testing.T) map[string]string {
	t.Helper()
	five, err := configPage(aDay)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"synproxyctl.8": programPage(aDay, commands()), "synproxyctl-config.5": five}
}

// TestManComplete looks for every command, flag and key.
func TestManComplete(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for _, c := range commands() {
		title := ".SS \"" + escape("synproxyctl "+strings.TrimSpace(c.name+" "+c.args)) + "\"\n"
		if _, part, found := strings.Cut(all["synproxyctl.8"], title); found == c.hidden {
			t.Errorf("%s: there: %v", c.name, found)
		} else if found {
			part, _, _ = strings.Cut(part, "\n.S")
			for _, f := range c.flags {
				if !strings.Contains(part, ".TP\n\\fB"+escape("--"+f.Names()[0])) {
					t.Errorf("%s: --%s is missing", c.name, f.Names()[0])
				}
			}
		}
	}
	keys, err := config.Keys()
	if err != nil || len(keys) == 0 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, k := range keys {
		if k.About == "" || !strings.Contains(all["synproxyctl-config.5"], ".TP\n\\fB"+escape(k.Name)+`\fR`) {
			t.Errorf("key %s of %q is missing, or has no description", k.Name, k.Where)
		}
	}
	if !strings.Contains(all["synproxyctl-config.5"], "KEYS OF THE FILE") {
		t.Error("the keys of the file itself have no section")
	}
}

// TestManLint has the pages read by the programs that will show them.
func TestManLint(t *testing.T) {
	t.Parallel()
	for name, page := range pages(t) {
		for _, line := range []string{"mandoc -Tlint -W warning", "man --warnings -E UTF-8 -Tutf8 -Z -l -"} {
			words := strings.Fields(line)
			cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
			cmd.Stdin = strings.NewReader(page)
			var complaints strings.Builder
			cmd.Stderr = &complaints
			out, err := cmd.Output()
			if words[0] == "mandoc" {
				complaints.Write(out)
			}
			if err != nil || complaints.Len() > 0 {
				t.Errorf("%s < %s: %v\n%s", line, name, err, complaints.String())
			}
		}
	}
}
