package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The journal gets a priority for each line, and no line that is not ours, whatever a message says.
func TestLogJournal(t *testing.T) {
	var b bytes.Buffer
	log, err := logger(&b, "journal", true)
	if err != nil {
		t.Fatal(err)
	}
	log = log.With("unit", 7)
	log.Debug("d")
	log.Info("i")
	log.Warn("w\n<0>forged", "code", "x")
	log.Error("e")
	want := "<7>msg=d unit=7\n<6>msg=i unit=7\n<4>msg=\"w\\n<0>forged\" unit=7 code=x\n<3>msg=e unit=7\n"
	if b.String() != want {
		t.Errorf("%s", b.String())
	}
	b.Reset()
	if log, err = logger(&b, "journal", false); err != nil {
		t.Fatal(err)
	}
	log.Debug("d")
	if b.Len() > 0 {
		t.Errorf("%s", b.String())
	}
}

// The format is that of the journal only if the stream is the one that systemd says.
func TestLogAuto(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ stream, want string }{
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino), `^<6>msg=hello\n$`},
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino+1), `^time=\S+ level=INFO msg=hello\n$`},
		{"", `^time=`},
		{"nonsense", `^time=`},
	} {
		t.Setenv("JOURNAL_STREAM", c.stream)
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		log, err := logger(f, "auto", false)
		if err != nil {
			t.Fatal(err)
		}
		at, _ := f.Seek(0, 2)
		log.Info("hello")
		text, _ := os.ReadFile(f.Name())
		if got := strings.TrimLeft(string(text[at:]), "\x00"); !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%q: %q", c.stream, got)
		}
	}
	if _, err := logger(f, "xml", false); err == nil {
		t.Error("no error")
	}
}
