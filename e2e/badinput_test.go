package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// bad is a command line that cannot be carried out.
type bad struct {
	args  []string
	stdin string
	exit  int
	names []string // what the answer must name
	// answered is for command lines that make sense and get a result, though not the hoped for one.
	answered bool
}

// line makes a command line of words that hold no white space.
func line(words string) []string { return strings.Fields(words) }

// given are options that need no probe.
var given = line("--mss 1460 --wscale 7 --sack-perm --timestamps")

// applying is an apply of the words that needs no probe.
func applying(words ...string) []string { return slices.Concat([]string{"apply"}, given, words) }

const (
	badUsage     = 2
	honestNo     = 3
	notPermitted = 4
	unsupported  = 5
)

var server = lab.ServerV4.String()

// badWords are faults of commands, flags and their values.
func badWords() []bad {
	web := server + ":80"
	no := func(what string, names ...string) bad { return bad{args: line(what), exit: badUsage, names: names} }
	cases := []bad{
		{exit: badUsage, names: []string{"no command", "apply"}},
		no("prob "+web, `"prob"`, "did you mean probe?"),
		no("frobnicate", `"frobnicate"`, "--help"),
		no("help frobnicate", `"frobnicate"`),
		no("--count 3 probe "+web, `"--count"`),
		no("probe --cuont 3 "+web, `"--cuont"`, "did you mean --count?"),
		no("probe "+web+" -x", `"--x"`, "synproxyctl probe --help"),
		no("probe "+web+" ---count 3", `"---count"`),
		no("probe "+web+" --count", "--count needs a value"),
		no("probe "+web+" --count=", "--count needs a value"),
		no("probe "+web+" --interface --connect", "--interface needs a value"),
		no("status --lock-timeout", "--lock-timeout needs a value"),
		no("status extra", `"extra"`, "no arguments"),
		no("verify "+web, web),
		no("revert "+web, web),
		no("revert --now=perhaps", "--now", `"perhaps"`),
		no("revert --now --drain 5s", "--now", "--drain"),
		no("revert --try 5s", `"--try"`),
		no("confirm "+web, web),
		no("confirm --now", `"--now"`),
		no("guard", "guard"),
		{args: []string{"confirm"}, exit: unsupported, names: []string{"pending"}},
		no("doctor "+web+" --mss 1460", `"--mss"`),
		no("doctor "+web+" --force", `"--force"`),
		no("doctor "+web+" --to", "--to needs a value"),
		no("doctor "+server, server, "no port"),
		no("doctor 127.0.0.1:80", "127.0.0.1:80", "loopback"),
		no("doctor [fe80::1]:80", "fe80::1", "link-local"),
		no("doctor "+web+" --interface nosuch", "nosuch"),
		no("apply "+web+" --sack-perm=maybe", "--sack-perm", `"maybe"`),
		{args: []string{"probe", web, "--" + strings.Repeat("x", 5000)}, exit: badUsage, names: []string{"unknown flag", "xxx"}},
		{args: []string{"probe", web, "--\x1b[31mred"}, exit: badUsage, names: []string{`\x1b[31mred`}},
		{args: []string{"\x1b]0;owned\a"}, exit: badUsage, names: []string{`owned`}},
	}
	// Numbers and times: words, and values just and far out of range.
	for flag, values := range map[string][]string{
		"count":        {"three", "0", "-1", "65", "70000", "1e9", "0x10", "9223372036854775808"},
		"timeout":      {"soon", "5", "0", "-1s", "1m1s", "9223372036854775808s"},
		"rate":         {"fast", "0", "-5", "1000001", "99999999999999999999"},
		"mss":          {"big", "0", "-1", "87", "65496", "70000", "1e9", "-9223372036854775809"},
		"wscale":       {"wide", "-1", "15", "255", "256", "4294967303"},
		"warmup":       {"soon", "5", "-1s", "-1ns", "25h", "9223372036854775808s"},
		"try":          {"soon", "5", "0", "-1s", "999ms", "25h", "9223372036854775808s"},
		"lock-timeout": {"ages", "10", "-1s", "-1ns", "1000h", "99999999999h"},
	} {
		for _, value := range values {
			cases = append(cases, bad{args: []string{"apply", web, "--" + flag, value}, exit: badUsage, names: []string{"--" + flag, value}})
		}
	}
	for flag, value := range map[string]string{
		"hook": "bogus", "first": "nobody", "backend": "bogus", "mode": "fast", "to": server, "probe-at": server, "source": "here",
	} {
		cases = append(cases, no("apply "+web+" --"+flag+" "+value, "--"+flag, `"`+value+`"`))
	}
	for _, flag := range []string{"hook", "mode", "to", "backend"} {
		cases = append(cases, no("doctor "+web+" --"+flag+" bogus", "--"+flag, `"bogus"`))
	}
	for _, value := range []string{"long", "5", "-1s", "-1ns", "9223372036854775808s"} {
		cases = append(cases, bad{args: []string{"revert", "--drain", value}, exit: badUsage, names: []string{"--drain", value}})
	}
	return append(cases,
		no("apply "+web+" --to "+server+":0", "--to"),
		no("apply "+web+" --to web.example:80", "--to", "web.example:80"),
		no("apply "+web+" --to [fd00::1]:80", "fd00::1", "family"),
		no("apply "+web+" --to "+server+":81 --mode tracked", web, "needs the mode notrack"),
		no("apply "+web+" --probe-at "+server+":0", "--probe-at"),
		no("apply "+web+" --probe-at web.example:80", "--probe-at", "web.example:80"),
		no("probe "+web+" --expect refused", "--expect", `"refused"`),
		no("apply "+web+" --source 192.0.2.77", "192.0.2.77", "not an address of this machine"),
		no("probe "+web+" --source 192.0.2.77", "192.0.2.77", "not an address of this machine"),
		no("apply "+web+" --source fd00::1", "fd00::1", web, "other family"),
		no("probe "+web+" --source fd00::1", "fd00::1", web, "other family"),
	)
}

// badInterfaces are names that no rule may come to hold.
func badInterfaces() []bad {
	var cases []bad
	for _, name := range []string{
		"nosuch", "abcdefghijklmnop", "eth0/x", "eth 0", "eth+", "-j", "!eth0", "$(reboot)", ";reboot", "`reboot`", "eth0\n-A", "\x1b[2J", "..", "lo",
	} {
		quoted := strings.Trim(strconv.Quote(name), `"`)
		cases = append(cases, bad{args: applying(server+":80", "--interface="+name), exit: badUsage, names: []string{"interface", quoted}})
		if name != "lo" {
			cases = append(cases, bad{args: []string{"probe", server + ":80", "--interface=" + name}, exit: badUsage, names: []string{"--interface", quoted}})
		}
	}
	return append(cases, bad{args: applying(line(server + ":80 --interface eth0 --interface eth0")...), exit: badUsage, names: []string{"eth0", "twice"}})
}

// badTargets are words that name no service that can be protected.
func badTargets() []bad {
	var cases []bad
	for text, problem := range map[string]string{
		"": "it is empty", server: "no port", server + ":": "port is empty", ":80": "no host",
		server + ":0": `port "0"`, server + ":65536": `port "65536"`, server + ":-1": `port "-1"`, server + ":http": `port "http"`,
		server + ":18446744073709551617": "out of range", server + ":080": `port "080"`, server + ":80,80": "port 80 twice", server + ":80,": "port is empty",
		"999.1.1.1:80": "999.1.1.1:80", "1.2.3:80": "1.2.3:80", "fd77:2::2:80": "brackets", "[fd77:2::2]": "no port", "[fd77:2::2:80": "bracket", "[10.1.1.1]:80": "brackets",
		"10.77.2.1/24:80": "10.77.2.0/24", "10.77.2.0/33:80": "not a prefix", "[fd77:2::1/64]:80": "fd77:2::/64", "0.0.0.0/0:80": "unspecified",
		"$(reboot):80": "$(reboot):80", ";reboot:80": ";reboot:80", "`reboot`:80": "`reboot`:80", server + ":80;reboot": "80;reboot", server + ":80|id": "80|id", "../../etc:80": "../../etc:80",
		"web\n-A INPUT:80": `web\n-A INPUT:80`, "\x1b[31mred:80": `\x1b[31mred:80`, "\u009b31mred:80": `\u009b31mred:80`, "\xff\xfe:80": `\xff\xfe:80`, "a\u202eb:80": `a\u202eb:80`,
		"127.0.0.1:80": "loopback", "[::1]:80": "loopback", "[::ffff:127.0.0.1]:80": "loopback", "224.0.0.1:80": "multicast", "[ff02::1]:80": "multicast",
		"0.0.0.0:80": "unspecified", "[::]:80": "unspecified", "255.255.255.255:80": "broadcast",
		"[fe80::1]:80": "link-local", "[fe80::1%eth0]:80": "link-local", "[fd77:2::2%eth0]:80": "zone", "10.77.2.0/24:80": "prefix",
		strings.Repeat("a", 64) + ".example:80": "longer than 63", strings.Repeat("1", 100000): "no port",
	} {
		args := []string{"apply", text}
		cases = append(cases, bad{args: args, exit: badUsage, names: []string{problem}})
	}
	return append(cases,
		bad{args: line("probe"), exit: badUsage, names: []string{"no target"}},
		bad{args: line("apply"), exit: badUsage, names: []string{"no target"}},
		bad{args: line("probe 10.77.2.0/24:80"), exit: badUsage, names: []string{"10.77.2.0/24:80", "prefix"}},
		bad{args: line("probe -- --json"), exit: badUsage, names: []string{`"--json"`, "looks like a flag"}},
		bad{args: applying("10.77.2.0/24:80", server+":80"), exit: badUsage, names: []string{server + ":80", "overlaps with 10.77.2.0/24:80"}},
	)
}

// badLists are lists of targets, in files below dir and on standard input.
func badLists(t testing.TB, dir string) []bad {
	t.Helper()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var many strings.Builder
	for i := range 100_001 {
		fmt.Fprintf(&many, "10.%d.%d.%d:80\n", 100+i>>16, i>>8&255, i&255)
	}
	empty, binary := file("empty", "# nothing\n\n"), file("binary", "\x7fELF\x00\x01\x02\x03\n")
	wrong := file("wrong", server+":80\n"+server+":99999\n$(reboot):80\n")
	return []bad{
		{args: applying("@" + dir + "/missing"), exit: badUsage, names: []string{dir + "/missing", "no such file"}},
		{args: applying("@" + dir), exit: badUsage, names: []string{dir, "is a directory"}},
		{args: applying("@"), exit: badUsage, names: []string{"no file after @"}},
		{args: applying("@" + empty), exit: badUsage, names: []string{empty, "no target"}},
		{args: applying("@" + binary), exit: badUsage, names: []string{binary + ":1", "binary"}},
		{args: applying("@" + wrong), exit: badUsage, names: []string{wrong + ":2", "99999", wrong + ":3", "$(reboot)"}},
		{args: applying("@"+wrong, "@"+wrong), exit: badUsage, names: []string{"twice"}},
		{args: applying("@" + file("many", many.String())), exit: badUsage, names: []string{"more than 100000 targets"}},
		{args: applying("@" + file("long", strings.Repeat("1", 1<<20))), exit: badUsage, names: []string{"/long:1", "bytes"}},
		{args: applying("-"), exit: badUsage, names: []string{"standard input", "no target"}},
		{args: applying("-"), stdin: "\x00\x00", exit: badUsage, names: []string{"standard input:1", "binary"}},
		{args: applying("-", "-"), stdin: server + ":80\n", exit: badUsage, names: []string{`"-" twice`}},
	}
}

// badBackends are servers that give no answer to build on.
func badBackends() []bad {
	cases := []bad{}
	for port, names := range map[string][]string{
		"81": {"refused"}, "82": {"no", "reply"}, "83": {"unreachable", "admin-prohibited"}, "84": {"SYNPROXY"},
	} {
		at := server + ":" + port
		// One target that would do must not be protected either.
		cases = append(cases, bad{args: line("apply --first client --timeout 100ms " + server + ":80 " + at), exit: honestNo, names: append(names, at)})
		if port != "84" {
			cases = append(cases,
				bad{args: line("apply --first client --timeout 100ms --mss 1460 " + server + ":80 --probe-at " + at), exit: honestNo, names: names},
				bad{args: line("probe --timeout 100ms " + at), exit: honestNo, names: []string{at}, answered: true})
		}
	}
	return append(cases,
		bad{args: line("probe --expect proxied " + server + ":80"), exit: honestNo, names: []string{"direct"}, answered: true},
		bad{args: line("probe --expect direct " + server + ":84"), exit: honestNo, names: []string{"proxied"}, answered: true})
}

// TestBadInput runs each bad command line twice: for people on a host that holds nothing of ours, and with --json on
// one where a service is protected. Neither may change.
func TestBadInput(t *testing.T) {
	for name, cases := range map[string]func(t testing.TB) []bad{
		"words":      func(testing.TB) []bad { return badWords() },
		"interfaces": func(testing.TB) []bad { return badInterfaces() },
		"targets":    func(testing.TB) []bad { return badTargets() },
		"lists":      func(t testing.TB) []bad { return badLists(t, t.TempDir()) },
		"backends":   func(testing.TB) []bad { return badBackends() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topo := newTopology(t)
			badServers(t, topo)
			fresh := newStage(t, topo.Firewall)
			active := newStage(t, topo.Client)
			if _, stderr, code := active.synproxyctl("", applying(lab.ClientV4.String()+":80")...); code != 0 {
				t.Fatal(stderr)
			}
			fresh.remember()
			active.remember()
			for _, c := range cases(t) {
				t.Run(c.name(), func(t *testing.T) {
					fresh.t, active.t = t, t
					fresh.text(c)
					active.json(c)
					fresh.sameFiles()
					active.sameFiles()
				})
			}
			fresh.t, active.t = t, t
			fresh.untouched()
			active.untouched()
		})
	}
}

// badServers puts servers on the server that answer, and that do not; see badBackends.
func badServers(t testing.TB, topo *lab.Topology) {
	t.Helper()
	for _, port := range []uint16{80, 84} {
		forward4.serve(t, topo, port, lab.ServerConfig{Mode: lab.ClientFirst})
	}
	run(t, topo.Server, "iptables-nft", line("-A INPUT -p tcp --dport 82 -j DROP")...)
	run(t, topo.Server, "iptables-nft", line("-A INPUT -p tcp --dport 83 -j REJECT --reject-with icmp-admin-prohibited")...)
	mustDo(t, topo.Server, 0, applying(server+":84")...)
}

var forward4 = places[2]

// name makes a name for a subtest out of the end of the command line, which is where the fault is.
func (b bad) name() string {
	text := strings.Join(b.args, " ")
	return strconv.Quote(text[max(0, len(text)-40):])
}

// text runs the command line for people and checks what they get to see.
func (s *stage) text(c bad) {
	s.t.Helper()
	stdout, stderr, exit := s.synproxyctl(c.stdin, c.args...)
	s.t.Logf("%s%s", stdout, stderr)
	if exit != c.exit {
		s.t.Errorf("exit %d, want %d", exit, c.exit)
	}
	stderr = unannounced(stderr)
	seen := stderr
	if c.answered {
		seen = stdout
	} else {
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		for len(lines) > 2 && strings.HasPrefix(lines[0], "warning: ") && strings.HasPrefix(lines[1], "  hint: ") {
			lines = lines[2:] // what is at risk is told before the attempt
		}
		if !strings.HasPrefix(lines[0], "synproxyctl: ") || !strings.HasPrefix(lines[len(lines)-1], "hint: ") {
			s.t.Errorf("no error, or no hint at its end:\n%s", stderr)
		}
		if stdout != "" {
			s.t.Errorf("standard output: %s", stdout)
		}
	}
	s.names(c, seen)
}

// unannounced takes away what apply says to people before it begins: what it puts at risk.
func unannounced(stderr string) string {
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "warning: ") && !strings.HasPrefix(line, "info: ") && !strings.HasPrefix(line, "  hint: ") {
			break
		}
		stderr = stderr[len(line):]
	}
	return stderr
}

// json runs the command line with --json, which must be heeded though the rest makes no sense.
func (s *stage) json(c bad) {
	s.t.Helper()
	stdout, stderr, exit := s.synproxyctl(c.stdin, append([]string{"--json"}, c.args...)...)
	if exit != c.exit || stderr != "" || !strings.HasSuffix(stdout, "}\n") {
		s.t.Errorf("exit %d, want %d; standard error %q; standard output %q", exit, c.exit, stderr, stdout)
	}
	object := oneObject(s.t, stdout)
	if c.answered {
		s.names(c, stdout)
		return
	}
	fault, ok := object["error"].(map[string]any)
	if !ok || len(object) != 3 {
		s.t.Fatalf("no error, or more than that: %s", stdout)
	}
	if want := errorCodes[exit]; fault["hint"] == "" || !slices.Contains(want, fault["code"].(string)) {
		s.t.Errorf("no hint, or not of the codes %v: %s", want, stdout)
	}
	s.names(c, fmt.Sprint(fault["message"], "\n", fault["hint"]))
}

// errorCodes are what error.code may be for an exit status.
var errorCodes = map[int][]string{
	1: {"failed"}, 2: {"usage"}, 3: {"no"}, 4: {"permission"}, 5: {"unsupported", "conflict", "not-applicable"}, 6: {"rollback"}, 130: {"interrupted"},
}

// names checks that an answer names what it must, and would do no harm to a terminal.
func (s *stage) names(c bad, seen string) {
	s.t.Helper()
	for _, name := range c.names {
		if !strings.Contains(seen, name) {
			s.t.Errorf("%q is not named in: %s", name, seen)
		}
	}
	if i := strings.IndexFunc(seen, func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || r == unicode.ReplacementChar) }); i >= 0 {
		s.t.Errorf("a control character at %d: %q", i, seen)
	}
	if len(seen) > 2000 {
		s.t.Errorf("%d bytes", len(seen))
	}
}
