package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// documents are those whose commands are run, apart from the root of the repository.
var documents = []string{"README.md", "docs/*.md", "docs/guide/*.md", "ansible/README.md"}

// TestDocs runs every command that the documentation shows, each document as one session, and compares what they say.
// Whatever is not run is excused in the document, with the reason.
func TestDocs(t *testing.T) {
	excuses := 0
	for _, pattern := range documents {
		paths, err := filepath.Glob("../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			d := &document{name: strings.TrimPrefix(path, "../")}
			d.lab, d.blocks = parseDoc(string(text))
			for _, b := range d.blocks {
				if b.excuse != "" {
					excuses++
					t.Logf("%s:%d is not run: %s", d.name, b.line, b.excuse)
				}
				if what := d.fault(b); what != "" {
					t.Errorf("%s:%d: %s", d.name, b.line, what)
				}
			}
			if d.lab != "" {
				t.Run(d.name, func(t *testing.T) {
					t.Parallel()
					d.play(t)
				})
			}
			t.Run("files of "+d.name, func(t *testing.T) {
				t.Parallel()
				d.checkFiles(t)
			})
		}
	}
	t.Logf("%d blocks are excused", excuses)
}

// A document is what TestDocs knows of one.
type document struct {
	name, lab string
	blocks    []docBlock
}

// fault says why a block may be wrong without any test noticing.
func (d *document) fault(b docBlock) string {
	switch {
	case b.excuse != "" || b.lang == "go" || b.lang == "ini" || b.lang == "yaml" || b.file != "":
		return ""
	case b.lang != "console":
		if strings.Contains(strings.Join(b.body, "\n"), "synproxyctl") || b.lang == "sh" {
			return "nobody runs this: make it a console block, or excuse it by a comment \"not run: REASON\""
		}
		return ""
	case d.lab == "":
		return "nobody runs this: the document has no comment \"lab: NAME\""
	case len(b.steps()) == 0 || docPrompt.FindString(b.body[0]) == "":
		return "a console block begins with a prompt, \"# \""
	}
	return ""
}

// checkFiles has the product check every configuration that the document shows.
func (d *document) checkFiles(t *testing.T) {
	topo := newTopology(t)
	for _, b := range d.blocks {
		if b.lang != "yaml" || b.excuse != "" || !strings.Contains("\n"+strings.Join(b.body, "\n"), "\nversion:") {
			continue
		}
		dir := t.TempDir()
		files := map[string]string{"fleet.txt": "192.0.2.77:80\n"}
		for _, other := range d.blocks {
			if other.file != "" {
				files[filepath.Base(other.file)] = strings.Join(other.body, "\n") + "\n"
			}
		}
		files["config.yaml"] = strings.Join(b.body, "\n") + "\n"
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, stderr, exit := synproxyctl(t, topo.Client, "config", "check", filepath.Join(dir, "config.yaml")); exit != 0 {
			t.Errorf("%s:%d: config check: exit %d\n%s", d.name, b.line, exit, stderr)
		}
	}
}

// playedStep is a step of a document with where it stands.
type playedStep struct {
	docStep
	line   int
	hidden bool
}

// play runs the document's console blocks in order, in one shell.
func (d *document) play(t *testing.T) {
	const longest = 60 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	site := newSite(t, d.lab)
	const mark = "\x01step"
	script := &strings.Builder{}
	script.WriteString(site.setup)
	var steps []playedStep
	for _, b := range d.blocks {
		if b.excuse != "" || b.file == "" && b.lang != "console" {
			continue
		}
		if b.file != "" {
			fmt.Fprintf(script, "mkdir -p \"$(dirname %[1]s)\"; cat >%[1]s <<'END OF FILE'\n%[2]s\nEND OF FILE\n", b.file, strings.Join(b.body, "\n"))
			continue
		}
		for _, s := range b.steps() {
			command := s.command
			if s.host != "" {
				command = site.elsewhere(t, s.host, command)
			}
			steps = append(steps, playedStep{s, b.line, b.hidden})
			// The step sees the exit status of the one before, as a person's does.
			fmt.Fprintf(script, "printf '%s %d\\n'; (exit \"${status-0}\")\n%s\nstatus=$?; printf '\\n%s exit %%d\\n' \"$status\"\n", mark, len(steps)-1, command, mark)
		}
	}
	script.WriteString("kill $(jobs -p) 2>/dev/null; exit 0\n")
	// A file and not a pipe: what a command leaves running would keep that open.
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := site.host.Command(ctx, "unshare", "-m", "bash", "-c", script.String())
	cmd.Env = site.env
	cmd.Stdout, cmd.Stderr = out, out
	ran := cmd.Run()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), mark+" ")
	done := 0
	for _, part := range strings.Split(rest, mark+" ") {
		number, said, _ := strings.Cut(part, "\n")
		if status, ok := strings.CutPrefix(number, "exit "); ok && done > 0 {
			d.exited(t, steps[done-1], status, done < len(steps) && steps[done].command == "echo $?")
		} else if done < len(steps) && number == strconv.Itoa(done) {
			d.compare(t, steps[done], said)
			done++
		}
	}
	if ran != nil || done != len(steps) {
		t.Errorf("%s: the session ended after %d of %d commands: %v\n%s", d.name, done, len(steps), ran, before)
	}
}

// exited judges a command's exit status, which must be 0 unless the document shows what the command says, or the status.
func (d *document) exited(t *testing.T, s playedStep, status string, shown bool) {
	if status != "0" && !shown && len(s.want) == 0 {
		t.Errorf("%s:%d: exit status %s: %s", d.name, s.line, status, s.command)
	}
}

// compare holds what a command said against what the document shows. Nothing shown is nothing claimed.
func (d *document) compare(t *testing.T, s playedStep, said string) {
	if len(s.want) == 0 {
		return
	}
	want, have := docWords(strings.Join(s.want, "\n")), docWords(docForeign.ReplaceAllString(said, ""))
	if s.command == "echo $?" {
		want, have = s.want, strings.Fields(said)
	}
	if !docMatch(want, have) {
		t.Errorf("%s:%d: %s\nsaid:\n%s\nthe document shows:\n%s", d.name, s.line, s.command, strings.TrimSpace(said), strings.Join(s.want, "\n"))
	}
}

// docForeign finds what ufw says of the files of a host whose root is not that of the user namespace that the tests run in.
var docForeign = regexp.MustCompile(`(?m)^WARN: uid is 0 but .* is owned by .*\n`)

// docNumber finds numbers. An address counts as it stands; any other is a matter of the day, and so is a length of time.
var docNumber = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b|\b2001:db8[0-9a-f:]*|((\d[\d.,]*)?\d\s?(ns|µs|ms|s|m|h|d))+\b|(\d[\d.,]*)?\d`)

// docWords normalises output: no columns, and any number or length of time for another. Where a line ends does not count, so
// that a document may wrap long ones; "..." stands for any words.
func docWords(text string) []string {
	return strings.Fields(docNumber.ReplaceAllStringFunc(text, func(s string) string {
		switch {
		case strings.Count(s, ".") == 3 || strings.HasPrefix(s, "2001:db8"):
			return s
		case s[len(s)-1] >= '0' && s[len(s)-1] <= '9':
			return "N"
		}
		return "TIME"
	}))
}

func TestDocWords(t *testing.T) {
	for _, pair := range [][2]string{
		{"proven: 192.0.2.1:80 in 1.0 ms,  7 of 64", "proven: 192.0.2.1:443 in 33 µs, 12 of 64"},
		{"a 1,024 2m3s", "a 7 10s"},
		{"a 10s ago", "a  1m0s ago"},
	} {
		if a, b := docWords(pair[0]), docWords(pair[1]); !docMatch(a, b) {
			t.Errorf("%q and %q are not alike", a, b)
		}
	}
	for _, pair := range [][2]string{{"192.0.2.1:80", "192.0.2.2:80"}, {"[2001:db8::1]:80", "[2001:db8::2]:80"}, {"in 1 s", "in 1"}} {
		if a, b := docWords(pair[0]), docWords(pair[1]); docMatch(a, b) {
			t.Errorf("%q and %q are alike", a, b)
		}
	}
}
