package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// ufwFiles are those of the package.
const ufwFiles = "before.rules before6.rules after.rules after6.rules user.rules user6.rules ufw.conf before.init after.init"

const ufwDefaults = `IPV6=yes
DEFAULT_INPUT_POLICY="DROP"
DEFAULT_OUTPUT_POLICY="ACCEPT"
DEFAULT_FORWARD_POLICY="DROP"
DEFAULT_APPLICATION_POLICY="SKIP"
MANAGE_BUILTINS=no
IPT_SYSCTL=/etc/ufw/sysctl.conf
IPT_MODULES=""
`

// ufw is a real ufw with a configuration of its own.
func (s *stand) ufw() *annex {
	s.Helper()
	a := s.annex()
	// The package's own files, which every user may read.
	const pristine = "/usr/share/ufw"
	a.mount("/etc/ufw")
	for _, name := range strings.Fields(ufwFiles) {
		text, err := os.ReadFile(filepath.Join(pristine, name))
		if err != nil {
			s.Fatal(err)
		}
		a.write("/etc/ufw/"+name, string(text))
	}
	a.write("/etc/ufw/sysctl.conf", "net/ipv4/conf/all/accept_redirects=0\n")
	a.write("/etc/ufw/applications.d/none", "")
	a.write("/etc/default/ufw", ufwDefaults)
	a.mounts = append(a.mounts, "mount --bind "+a.dir+"/etc/default/ufw /etc/default/ufw")
	a.Cleanup(func() {
		if text, err := os.ReadFile("/etc/ufw/user.rules"); err == nil && strings.Contains(string(text), lab.AttackerV4.String()) {
			a.Error("the machine's own ufw was changed")
		}
	})
	return a
}

// rule adds a rule for the stand's hook.
func (a *annex) rule(words ...string) {
	a.Helper()
	if a.hook == rules.Forward {
		words = append([]string{"route"}, words...)
	}
	a.run("ufw", words...)
}

// doorkeeper denies the foe and lets all others use the services.
func (a *annex) doorkeeper() {
	a.Helper()
	a.rule("deny", "from", "$FOE")
	a.rule("allow", "proto", "tcp", "from", "any", "to", "$SERVICE", "port", "25,80")
}

// TestUFW protects services behind a real ufw, which is then reloaded, turned off and on, told to deny what goes out, and reset.
func TestUFW(t *testing.T) {
	for turn := range backends {
		twoStands(t, turn, func(s *stand) {
			a := s.ufw()
			a.doorkeeper()
			a.run("ufw", "--force", "enable")
			s.asBefore(true, func() { s.apply() })
			s.flooded()
			for _, event := range [][]string{{"disable", "enable", "reload"}, {"default deny outgoing", "reload", "reset"}}[turn%2] {
				a.run("ufw", strings.Fields("--force "+event)...)
				if event == "default deny outgoing" {
					s.strictOutput()
				}
				s.mended("ufw "+event, event != "disable" && event != "reset")
			}
		})
	}
}

// TestUFWAfterwards enables a real ufw on a host that is protected already.
func TestUFWAfterwards(t *testing.T) {
	for _, p := range []place{{rules.Input, rules.IPv4}, {rules.Forward, rules.IPv6}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newStand(t, p, rules.NFT)
			a := s.ufw()
			a.doorkeeper()
			s.apply()
			s.served()
			a.run("ufw", "--force", "enable")
			s.mended("ufw enable", true)
			a.run("ufw", "default", "deny", "outgoing")
			s.mended("ufw default deny outgoing", true)
		})
	}
}

// TestUFWLimit wants `ufw limit` to count the same with the protection as without it.
func TestUFWLimit(t *testing.T) {
	for _, p := range []place{{rules.Input, rules.IPv6}, {rules.Forward, rules.IPv4}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			const attempts = 8
			var in [2]int
			for i := range in {
				s := newStand(t, p, rules.NFT)
				a := s.ufw()
				a.rule("limit", "proto", "tcp", "from", "any", "to", "$SERVICE", "port", "80")
				a.rule("allow", "proto", "tcp", "from", "any", "to", "$SERVICE", "port", "25")
				a.run("ufw", "--force", "enable")
				if i > 0 {
					s.apply()
				}
				in[i] = s.held(attempts)
			}
			if in[0] != in[1] || in[0] == 0 || in[0] == attempts {
				t.Errorf("let in of %d: %d without, %d with the protection", attempts, in[0], in[1])
			}
		})
	}
}
