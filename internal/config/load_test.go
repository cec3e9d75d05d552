package config

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// folder is a directory with the given files.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// names is a resolver with fixed answers.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	answer, ok := n[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var addrs []netip.Addr
	for _, a := range answer {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

// said compares faults with LINE:COLUMN texts of what is wanted, below dir.
func said(t *testing.T, dir string, err error, want ...string) {
	t.Helper()
	var got []string
	for _, m := range messages(t, err) {
		got = append(got, strings.ReplaceAll(m, dir+"/", ""))
	}
	if len(got) != len(want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"config": "include: [lists/more, lists/one]\n" + in("name: web", "destinations: [www.example.com, web.example.com, 192.0.2.9]", "ports: [80, 443]"),
		// Relative to the configuration, not to where the program runs.
		"lists/more": "# more\n192.0.2.5:22\n\n[2001:db8::5]:22,23 # two\n", "lists/one": "\ufeff192.0.2.6:22\r\n",
	})
	c, err := Load(filepath.Join(dir, "config"), nil)
	if err != nil {
		t.Fatal(err)
	}
	items, err := c.Expand(t.Context(), names{"www.example.com": {"192.0.2.2", "192.0.2.1"}, "web.example.com": {"192.0.2.1", "2001:db8::1"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range items {
		got = append(got, fmt.Sprintf("%s %s %s", i.Service.Name, i, strings.ReplaceAll(i.Place.String(), dir+"/", "")))
	}
	want := []string{
		"web 192.0.2.1:80 config:5:20", "web 192.0.2.1:443 config:5:20", "web 192.0.2.2:80 config:5:20", "web 192.0.2.2:443 config:5:20",
		"web [2001:db8::1]:80 config:5:37", "web [2001:db8::1]:443 config:5:37", "web 192.0.2.9:80 config:5:54", "web 192.0.2.9:443 config:5:54",
		" 192.0.2.5:22 lists/more:2", " [2001:db8::5]:22 lists/more:4", " [2001:db8::5]:23 lists/more:4", " 192.0.2.6:22 lists/one:1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if targets, names, err := c.Check(); targets != 6 || names != 2 || err != nil {
		t.Errorf("Check: %d targets, %d names, %v", targets, names, err)
	}
}

// TestCheckThenExpand looks at one list twice.
func TestCheckThenExpand(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"config": "version: 1\ninclude: list\n", "list": "www.example.com:80\n192.0.2.5:80\n"})
	c, err := Load(filepath.Join(dir, "config"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if targets, n, err := c.Check(); targets != 1 || n != 1 || err != nil {
			t.Errorf("Check: %d targets, %d names, %v", targets, n, err)
		}
		if items, err := c.Expand(t.Context(), names{"www.example.com": {"192.0.2.1"}}); err != nil || len(items) != 2 || items[0].String() != "192.0.2.1:80" || items[1].String() != "192.0.2.5:80" {
			t.Errorf("Expand: %v, %v", items, err)
		}
	}
}

func TestExpandFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"doubled": {
			in("targets: 192.0.2.1:80") + "  - name: b\n    targets: ['192.0.2.2:80', '192.0.2.1:80']\n",
			[]string{"config:5:31: 192.0.2.1:80 is there already: config:3:14 (take one"},
		},
		"doubled in one service":    {in("targets: ['192.0.2.1:80', '192.0.2.1:443,80']"), []string{"config:3:31: 192.0.2.1:80 is there already: config:3:15"}},
		"doubled in a list":         {"version: 1\ninclude: list\n", []string{"list:3: 192.0.2.8:80 is there already: list:1"}},
		"doubled in a list and out": {in("name: a", "targets: 192.0.2.7:80") + "include: [list]\n", []string{`list:2: 192.0.2.7:80 is there already, in service "a": config:4:14`, "list:3: 192.0.2.8:80 is there already: list:1"}},
		"conflict": {
			in("name: a", "targets: 192.0.2.1:80", given) + "  - {targets: 192.0.2.1:80, options: {mss: 1400, wscale: 7, sack_perm: true, timestamps: true}}\n",
			[]string{`config:6:15: 192.0.2.1:80 is there already with another mss, in service "a": config:4:14`},
		},
		"conflicting words":     {in("targets: 192.0.2.1:80", "first: client") + "  - {targets: 192.0.2.1:80, first: server}\n", []string{"config:5:15: 192.0.2.1:80 is there already with another first: config:3:14"}},
		"swallowed":             {in("targets: 192.0.2.0/24:80", given) + "  - {name: b, targets: 192.0.2.1:80}\n", []string{"config:5:24: 192.0.2.1:80 lies within 192.0.2.0/24:80 of config:3:14"}},
		"swallows":              {in("name: one", "targets: 192.0.2.1:80") + "  - {targets: 192.0.0.0/16:80, " + given + "}\n", []string{`config:5:15: 192.0.0.0/16:80 covers 192.0.2.1:80, in service "one" of config:4:14`}},
		"swallowed IPv6 prefix": {in("targets: ['[2001:db8::/32]:80', '[2001:db8:1::/48]:80']", given), []string{"config:3:37: [2001:db8:1::/48]:80 lies within [2001:db8::/32]:80 of config:3:15"}},
		"other ports":           {in("targets: ['192.0.2.0/24:80', '192.0.2.1:81']", given), nil},
		"prefix unprobed":       {in("targets: ['192.0.2.0/24:80,443', 198.51.100.1:80]"), []string{"config:3:15: 192.0.2.0/24:80: a prefix has no single server", "config:3:15: 192.0.2.0/24:443: a prefix"}},
		"prefix partly":         {in("targets: 192.0.2.0/24:80", "options: {mss: 1400}"), []string{"config:3:14: 192.0.2.0/24:80: a prefix has no single server"}},
		"prefix with a server":  {in("targets: 192.0.2.0/24:80", "probe_at: 192.0.2.1:80"), nil},
		"not of a host":         {in("targets: ['127.0.0.1:80', '224.0.0.1:80', '[fe80::1]:80', '0.0.0.0:80']"), []string{`config:3:15: target "127.0.0.1:80": 127.0.0.1 is a loopback address`, "config:3:31: ", "config:3:47: ", "config:3:63: "}},
		"translated network":    {in("targets: 192.0.2.0/24:80", "to: 10.0.0.1:80", given), []string{"config:4:5: 192.0.2.0/24:80: a network cannot be translated"}},
		"translated family":     {in("targets: 192.0.2.1:80", "to: '[2001:db8::1]:80'"), []string{"config:4:5: 192.0.2.1:80: target [2001:db8::1]:80: not of the family"}},
		"translated tracked":    {in("targets: 192.0.2.1:80", "to: 10.0.0.1:80", "mode: tracked"), []string{"config:4:5: 192.0.2.1:80: address translation needs the mode notrack"}},
		"translated to itself":  {in("targets: 192.0.2.1:80", "to: 192.0.2.1:80"), []string{"config:4:5: 192.0.2.1:80: target 192.0.2.1:80: is the destination itself"}},
		"unknown names":         {in("targets: ['nosuch.example:80', 'www.example.com:80', 'no.example:80']"), []string{`config:3:15: target "nosuch.example:80": the name has no address`, `config:3:58: target "no.example:80"`}},
		"two names, two services": {
			in("targets: www.example.com:80") + "  - targets: web.example.com:80\n",
			[]string{"config:4:14: 192.0.2.1:80 is there already: config:3:14"},
		},
		"too many": {
			in("destinations: 192.0.2.1", "ports: 1-65535") + "  - {destinations: 192.0.2.2, ports: 1-65535}\n",
			[]string{"config:5:20: more than 100000 targets"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, map[string]string{"config": tt.text, "list": "192.0.2.8:80\n192.0.2.7:80\n192.0.2.8:80\n"})
			c, err := Load(filepath.Join(dir, "config"), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Expand(t.Context(), names{"www.example.com": {"192.0.2.1"}, "web.example.com": {"192.0.2.1"}})
			said(t, dir, err, tt.want...)
		})
	}
}

func TestLoadFaults(t *testing.T) {
	t.Parallel()
	lines := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "10.%d.%d.%d:443\n", i>>16, i>>8&255, i&255)
		}
		return b.String()
	}
	for name, tt := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"absent":      {nil, []string{"config: cannot read it: no such file or directory (check"}},
		"absent list": {map[string]string{"config": "version: 1\ninclude: [list, a/b]\n"}, []string{"list: cannot read it: no such file or directory; named at config:2:11", "a/b: cannot read it: no such file or directory; named at config:2:17"}},
		"bad lines": {
			map[string]string{"config": "version: 1\ninclude: list\n", "list": "192.0.2.1:80\nfoo\n192.0.2.1:0\n"},
			[]string{`list:2: target "foo": no port`, `list:3: target "192.0.2.1:0": port "0" is out of range`},
		},
		"empty list":   {map[string]string{"config": "version: 1\ninclude: list\n", "list": "# none\n"}, []string{"list: no target in the list"}},
		"binary list":  {map[string]string{"config": "version: 1\ninclude: list\n", "list": "a:80\n\x7fELF\x00\n"}, []string{"list:2: binary data"}},
		"list twice":   {map[string]string{"config": "version: 1\ninclude: [list, ./list]\n", "list": "192.0.2.1:80\n"}, []string{`config:2:17: the list`}},
		"200000 lines": {map[string]string{"config": "version: 1\ninclude: list\n", "list": lines(200_000)}, []string{"list:100001: more than 100000 targets"}},
		"lists that are too many together": {
			map[string]string{"config": "version: 1\ninclude: [a, b]\n", "a": lines(60_000), "b": lines(60_000)}, []string{"config:2:14: more than 100000 targets"},
		},
		"large":      {map[string]string{"config": "version: 1\n#" + strings.Repeat(" ", maxText)}, []string{"config: is larger than 1048576 bytes"}},
		"large list": {map[string]string{"config": "version: 1\ninclude: list\n", "list": strings.Repeat(" ", maxList) + "x"}, []string{"list: is larger than"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, tt.files)
			_, err := Load(filepath.Join(dir, "config"), nil)
			said(t, dir, err, tt.want...)
		})
	}
}

func TestLoadOddFiles(t *testing.T) {
	t.Parallel()
	good := in("targets: 192.0.2.1:80")
	dir := folder(t, map[string]string{"plain": good, "open": good})
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.Chmod(at("open"), 0o666), os.Symlink("plain", at("link")), os.Symlink("nowhere", at("stray")), os.Symlink("loop", at("loop")), unix.Mkfifo(at("fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		at("plain"): "", at("link"): "",
		at("open"):  "open: everybody may write to it (look at what is in it, and run: chmod o-w",
		at("stray"): "stray: cannot read it: no such file", at("loop"): "loop: cannot read it: too many levels",
		at("fifo"): "fifo: is not a plain file", dir: dir + ": is a directory", "/dev/null": "/dev/null: is not a plain file", "/dev/zero": "/dev/zero: is not a plain file",
		"": ": cannot read it",
	} {
		_, err := Load(path, nil)
		if want == "" {
			said(t, dir, err)
			continue
		}
		said(t, dir, err, want)
	}
	if _, err := Load("-", strings.NewReader(good)); err != nil {
		t.Errorf("standard input: %v", err)
	}
	_, err := Load("-", strings.NewReader("version: 2"))
	said(t, dir, err, "standard input:1:10: version 2")
}

// TestLoadChanged changes a file while it is read.
func TestLoadChanged(t *testing.T) {
	t.Parallel()
	good := in("targets: 192.0.2.1:80")
	for name, change := range map[string]func(path string) error{
		"longer":  func(path string) error { return os.WriteFile(path, []byte(good+good), 0o600) },
		"shorter": func(path string) error { return os.Truncate(path, 3) },
		"other": func(path string) error {
			return os.WriteFile(path, []byte(strings.Replace(good, "80", "81", 1)), 0o600)
		},
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte(good), 0o600), os.Rename(path+".new", path))
		},
		"removed": os.Remove,
		"stamped": func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(2, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, map[string]string{"config": good})
			path := filepath.Join(dir, "config")
			if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil { // the clock of files is coarse
				t.Fatal(err)
			}
			_, err := reader{between: func() {
				if err := change(path); err != nil {
					t.Error(err)
				}
			}}.load(path, nil)
			said(t, dir, err, "config: was changed while it was read (run the command again")
		})
	}
}

// BenchmarkLoad reads a list of 10,000 targets and all that is done with it.
func BenchmarkLoad(b *testing.B) {
	var list strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&list, "10.0.%d.%d:443\n", i>>8, i&255)
	}
	dir := folder(b, map[string]string{"config": "version: 1\ndefaults: {" + given + "}\ninclude: list\n", "list": list.String()})
	for b.Loop() {
		c, err := Load(filepath.Join(dir, "config"), nil)
		if err != nil {
			b.Fatal(err)
		}
		if items, err := c.Expand(b.Context(), names{}); err != nil || len(items) != 10_000 {
			b.Fatal(len(items), err)
		}
	}
}
