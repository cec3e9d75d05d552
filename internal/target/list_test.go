package target

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func texts(specs []Spec) string {
	words := make([]string, len(specs))
	for i, s := range specs {
		words[i] = s.Text
	}
	return strings.Join(words, " ")
}

func TestParseList(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"plain":    "192.0.2.1:80\n[2001:db8::1]:443\n",
		"comments": "# all of them\n\n  192.0.2.1:80  # web\n\t[2001:db8::1]:443#mail\n#192.0.2.2:80\n   ",
		"Windows":  "\ufeff192.0.2.1:80\r\n\r\n[2001:db8::1]:443\r\n",
		"no end":   "192.0.2.1:80\n[2001:db8::1]:443",
	} {
		got, err := ParseList(strings.NewReader(text), name)
		if want := "192.0.2.1:80 [2001:db8::1]:443"; err != nil || texts(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, texts(got), err, want)
		}
	}
}

func TestParseListRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   io.Reader
		want string
	}{
		"empty":         {strings.NewReader(""), "list: no target in the list"},
		"comments":      {strings.NewReader("# none\n\n"), "list: no target in the list"},
		"bad line":      {strings.NewReader("a:80\n\nb:x\n"), `list:3: target "b:x": port "x" is not a number`},
		"two bad lines": {strings.NewReader("a\nb:80\nc\n"), "list:1: target \"a\": no port\nlist:3: target \"c\": no port"},
		"two on a line": {strings.NewReader("a:80 b:80\n"), `list:1: target "a:80 b:80": white space in it`},
		"a flag":        {strings.NewReader("--now\n"), `list:1: target "--now": looks like a flag`},
		"a list inside": {strings.NewReader("@other\n"), `list:1: target "@other": no port`},
		"binary":        {strings.NewReader("a:80\n\x7fELF\x00\x01\n"), "list:2: binary data"},
		"UTF-16":        {strings.NewReader("\xff\xfea\x00:\x008\x000\x00"), "list:1: binary data"},
		"Latin-1":       {strings.NewReader("a:80 # caf\xe9\n"), "list:1: binary data"},
		"endless line":  {strings.NewReader("a:80\n" + strings.Repeat("a", maxLine+1)), "list:2: a line of more than 32768 bytes"},
		"read error":    {iotest.ErrReader(fs.ErrClosed), "list: cannot read the list of targets: file already closed"},
	} {
		got, err := ParseList(tt.in, "list")
		if err == nil || !strings.Contains(err.Error(), tt.want) || got != nil {
			t.Errorf("%s: %q, %v; want %q", name, texts(got), err, tt.want)
			continue
		}
		var hinter interface{ Hint() string }
		if !errors.As(err, &hinter) || hinter.Hint() == "" {
			t.Errorf("%s: no hint", name)
		}
	}
}

func TestParseListBoundsItsFaults(t *testing.T) {
	t.Parallel()
	_, err := ParseList(strings.NewReader(strings.Repeat("nonsense\n", 1000)), "list")
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxFaults+1 || lines[maxFaults] != "and 990 more" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "targets")
	if err := os.WriteFile(file, []byte("192.0.2.2:80\n192.0.2.3:80\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read([]string{"192.0.2.1:80", "@" + file, "-"}, strings.NewReader("192.0.2.4:80\n"))
	if want := "192.0.2.1:80 192.0.2.2:80 192.0.2.3:80 192.0.2.4:80"; err != nil || texts(got) != want {
		t.Errorf("%q, %v; want %q", texts(got), err, want)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tt := range []struct {
		words []string
		want  string
	}{
		{nil, "no target"},
		{[]string{"@"}, "no file after @"},
		{[]string{"@" + dir + "/absent"}, dir + "/absent: cannot open the list of targets: no such file or directory"},
		{[]string{"@" + dir}, dir + ": cannot read the list of targets: is a directory"},
		{[]string{"@/proc/self/exe"}, "binary data"},
		{[]string{"-", "-"}, `list "-" twice`},
		{[]string{"-"}, "standard input: no target in the list"},
		{[]string{"a:80", "b", "c"}, "target \"b\": no port\ntarget \"c\": no port"},
	} {
		got, err := Read(tt.words, strings.NewReader(""))
		if err == nil || !strings.Contains(err.Error(), tt.want) || got != nil {
			t.Errorf("%q: %q, %v; want %q", tt.words, texts(got), err, tt.want)
		}
	}
	if _, err := Read([]string{"@" + dir + "/absent"}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent list: %v is not fs.ErrNotExist", err)
	}
}

// TestReadChanged changes a list while it is read.
func TestReadChanged(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "targets")
	for name, change := range map[string]func() error{
		"nothing": func() error { return nil },
		"longer":  func() error { return os.WriteFile(file, []byte("192.0.2.2:80\n192.0.2.3:80\n"), 0o600) },
		"shorter": func() error { return os.Truncate(file, 3) },
		"other":   func() error { return os.WriteFile(file, []byte("192.0.2.3:80\n"), 0o600) },
	} {
		// In the past, since the clock of files is coarse.
		if err := errors.Join(os.WriteFile(file, []byte("192.0.2.2:80\n"), 0o600), os.Chtimes(file, time.Time{}, time.Unix(1, 0))); err != nil {
			t.Fatal(err)
		}
		_, err := readFile(file, func() {
			if err := change(); err != nil {
				t.Error(err)
			}
		})
		changed := err != nil && strings.Contains(err.Error(), file+": was changed while it was read")
		if changed != (name != "nothing") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add("192.0.2.1:80 # web\r\n\n[2001:db8::1]:443\n")
	f.Add("\ufeffwww.example.com:80,443")
	f.Add("\x7fELF\x00")
	f.Add("#")
	f.Fuzz(func(t *testing.T, text string) {
		specs, err := ParseList(strings.NewReader(text), "list")
		if (err == nil) != (len(specs) > 0) {
			t.Fatalf("%d targets and the error %v", len(specs), err)
		}
		if len(specs) > strings.Count(text, "\n")+1 {
			t.Fatalf("%d targets in %q", len(specs), text)
		}
	})
}
