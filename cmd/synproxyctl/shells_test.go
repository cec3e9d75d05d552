package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shellStage is a directory with the program in bin, the scripts, and some files.
func shellStage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"bin/synproxyctl":  fmt.Sprintf("#!/bin/sh\nGORACE=atexit_sleep_ms=0 %s=1 exec '%s' \"$@\"\n", envProgram, self),
		"bash":             bashCompletion,
		"zsh/_synproxyctl": zshCompletion,
		"fish":             fishCompletion,
		"work/fleet.txt":   "",
		"work/two words":   "",
		"work/config.yaml": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// completions are command lines and what one candidate of theirs must be; in
// what bash shows, what stands before a colon or an equals sign is left out.
var completions = []struct{ line, want, bash string }{
	{"synproxyctl ap", "apply", ""},
	{"synproxyctl config ", "check", ""},
	{"synproxyctl apply --backend ip", "iptables-legacy", ""},
	{"synproxyctl apply --backend=nf", "--backend=nftables", "nftables"},
	{"synproxyctl apply 192.0.2.1:80 --dr", "--dry-run", ""},
	{"synproxyctl apply [2001:db8::1]:80 --hook f", "forward", ""},
	{"synproxyctl apply -c con", "config.yaml", ""},
	{"synproxyctl apply @fl", "@fleet.txt", ""},
	{"synproxyctl apply --config=con", "--config=config.yaml", "config.yaml"},
}

func (l shellLine) run(t *testing.T, dir string, words ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Dir = filepath.Join(dir, "work")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+dir, "LINE="+string(l), "DIR="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %s: %v\n%s", words[0], l, err, out)
	}
	return string(out)
}

type shellLine string

// hasLine reports whether a text has a line that is, or begins with a tab behind, the wanted one.
func hasLine(text, want string) bool {
	for line := range strings.Lines(text) {
		if word, _, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t"); word == want {
			return true
		}
	}
	return false
}

// TestBashCompletion calls the function as bash does.
func TestBashCompletion(t *testing.T) {
	t.Parallel()
	dir := shellStage(t)
	const script = `. "$DIR/bash"; COMP_LINE=$LINE; COMP_POINT=${#LINE}; _synproxyctl; printf '%s\n' "${COMPREPLY[@]}"`
	for _, c := range completions {
		want := c.want
		if c.bash != "" {
			want = c.bash
		}
		if got := shellLine(c.line).run(t, dir, "bash", "--norc", "-euo", "pipefail", "-c", script); !hasLine(got, want) {
			t.Errorf("%q: no %q in\n%s", c.line, want, got)
		}
	}
	// An address before the word that is completed, in which bash sees many words.
	if got := shellLine("synproxyctl probe x:1 --exp").run(t, dir, "bash", "--norc", "-c", script); got != "--expect\n" {
		t.Errorf("--exp becomes %q", got)
	}
}

// TestFishCompletion asks fish for its candidates.
func TestFishCompletion(t *testing.T) {
	t.Parallel()
	dir := shellStage(t)
	for _, c := range completions {
		if got := shellLine(c.line).run(t, dir, "fish", "--no-config", "-c", `source "$DIR/fish"; complete -C "$LINE"`); !hasLine(got, c.want) {
			t.Errorf("%q: no %q in\n%s", c.line, c.want, got)
		}
	}
}

// TestTyped types a part of each line and a tab on a terminal, in an interactive
// shell, and waits for the rest to come.
func TestTyped(t *testing.T) {
	t.Parallel()
	for shell, start := range map[string]struct {
		words []string
		setup string
	}{
		"bash": {[]string{"bash", "--norc", "-i"}, `. "$DIR/bash"`},
		"zsh":  {[]string{"zsh", "-f", "-i"}, `fpath=("$DIR/zsh" $fpath); autoload -Uz compinit; compinit -u -d "$DIR/dump"`},
	} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			dir := shellStage(t)
			term := openTyping(t, dir, start.words)
			term.write(start.setup + "\n")
			// What is typed is shown word by word, in place of being run.
			term.write(`synproxyctl() { if [[ $1 == complete ]]; then command synproxyctl "$@"; else printf '<%s>' synproxyctl "$@"; fi; }` + "\n")
			term.write("echo set''-up\n")
			term.await("set-up")
			for _, c := range []struct{ typed, want string }{
				{"synproxyctl appl\t--backend nft\t--dry\t", "synproxyctl apply --backend nftables --dry-run "},
				{"synproxyctl config ch\tconf\t", "synproxyctl config check config.yaml "},
				{"synproxyctl apply -c tw\t", `synproxyctl apply -c two\ words `},
				{"synproxyctl apply @fle\t", "synproxyctl apply @fleet.txt"},
				{"synproxyctl apply --hook=inp\t", "synproxyctl apply --hook=input "},
				{"synproxyctl apply a:1 '[2001:db8::1]:80' --hook inp\t", "synproxyctl apply a:1 [2001:db8::1]:80 --hook input "},
			} {
				term.write(c.typed + "\n")
				term.awaitWords(c.want)
			}
		})
	}
}

// typing is an interactive shell on a terminal.
type typing struct {
	t      *testing.T
	master *os.File
	seen   strings.Builder
	chunks chan string
}

func openTyping(t *testing.T, dir string, words []string) *typing {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 200}); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Dir = filepath.Join(dir, "work")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+dir, "DIR="+dir, "TERM=dumb", "INPUTRC=/dev/null")
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	term := &typing{t: t, master: master, chunks: make(chan string, 1000)}
	go func() {
		defer close(term.chunks)
		part := make([]byte, 4096)
		for {
			n, err := master.Read(part)
			if err != nil {
				return
			}
			term.chunks <- string(part[:n])
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = master.Close()
	})
	return term
}

func (y *typing) write(text string) {
	y.t.Helper()
	if _, err := y.master.WriteString(text); err != nil {
		y.t.Fatal(err)
	}
}

// await waits until the terminal has shown a text since it last was waited for.
func (y *typing) await(want string) {
	y.t.Helper()
	patience := time.After(20 * time.Second)
	for !strings.Contains(y.seen.String(), want) {
		select {
		case chunk, open := <-y.chunks:
			if !open {
				y.t.Fatalf("the shell has ended; no %q in\n%q", want, y.seen.String())
			}
			y.seen.WriteString(chunk)
		case <-patience:
			y.t.Fatalf("no %q in\n%q", want, y.seen.String())
		}
	}
	y.seen.Reset()
}

// awaitWords waits for the words of a line as printf shows them.
func (y *typing) awaitWords(line string) {
	y.t.Helper()
	const space = "\x00"
	line = strings.TrimSpace(strings.ReplaceAll(line, `\ `, space))
	var want strings.Builder
	for _, word := range strings.Fields(line) {
		want.WriteString("<" + strings.ReplaceAll(word, space, " ") + ">")
	}
	y.await(want.String())
}
