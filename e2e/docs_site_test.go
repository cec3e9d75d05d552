package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// A site is the little world in which the commands of a document run.
type site struct {
	host   *lab.Host            // the host that the document is about
	others map[string]*lab.Host // by the names that prompts begin with
	setup  string               // shell commands: what the session's shell sees of the file system
	env    []string
}

// siteSetup gives the session a file system of its own where it matters; what it changes lies in memory and ends with it.
const siteSetup = `set -e
exec </dev/null
for fd in $OTHERS; do eval "exec ${fd%%=*}<${fd#*=}"; done
mount -t tmpfs tmpfs "$WORK"
mkdir "$WORK/upper" "$WORK/work" "$WORK/home"
layers=lowerdir=/etc,upperdir=$WORK/upper,workdir=$WORK/work
mount -t overlay overlay -o "$layers,userxattr" /etc 2>/dev/null || mount -t overlay overlay -o "$layers" /etc
mkdir -p /etc/synproxyctl /var/lib/synproxyctl
mount -t tmpfs -o mode=0700 tmpfs /var/lib/synproxyctl
mount -t tmpfs -o mode=0755 tmpfs /run
cd "$WORK/home"
for program in modprobe rmmod; do # of the kernel, which all share
	if path=$(type -P $program); then mount --bind "$(type -P true)" "$(readlink -f "$path")"; fi
done
`

// siteWrapper is what a session calls by the name of the program: a host that has only just been made has no connections
// for which an apply would have to watch so long.
const siteWrapper = `#!/bin/sh
case " $* " in
*" --warmup"* | *" --help "*) ;;
*" apply "*) set -- "$@" --warmup=200ms ;;
esac
exec %s "$@"
`

// newSite makes the lab of a document: "server" has its services on the host itself, "router" on one behind it,
// "docker" in a container. More words name the firewalls that are there: "ufw", "firewalld".
func newSite(t *testing.T, name string) *site {
	t.Helper()
	words := strings.Fields(name)
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "synproxyctl"), fmt.Appendf(nil, siteWrapper, path), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &site{others: map[string]*lab.Host{}, setup: siteSetup}
	switch words[0] {
	case "server":
		s.server(t)
	case "router":
		s.router(t)
	case "docker":
		s.docker(t)
	default:
		t.Fatalf("there is no lab %q", words[0])
	}
	for _, word := range words[1:] {
		more, ok := siteExtras[word]
		if !ok {
			t.Fatalf("there is no %q in a lab", word)
		}
		s.setup += more
	}
	s.setup += "set +e\n"
	var others []string
	for name, host := range s.others {
		others = append(others, fmt.Sprintf("%d=%s", siteDescriptors[name], host.Path()))
	}
	s.env = []string{
		"PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C", "TERM=dumb",
		"WORK=" + t.TempDir(), "OTHERS=" + strings.Join(others, " "), "GORACE=atexit_sleep_ms=0",
	}
	return s
}

// siteDescriptors are those by which a session holds the namespaces of the other hosts.
var siteDescriptors = map[string]int{"client": 7, "backend": 8, "container": 9}

// elsewhere runs a command on another host.
func (s *site) elsewhere(t *testing.T, host, command string) string {
	t.Helper()
	if s.others[host] == nil {
		t.Fatalf("there is no host %q in this lab", host)
	}
	return fmt.Sprintf("nsenter --net=/proc/self/fd/%d bash -c '%s'", siteDescriptors[host], strings.ReplaceAll(command, "'", `'\''`))
}

// siteExtras are shell commands that bring up firewalls of others, with the state of a fresh installation.
var siteExtras = map[string]string{
	"ufw": "mount -t tmpfs -o mode=0755 tmpfs /etc/ufw; mkdir /etc/ufw/applications.d\n" +
		"for file in " + ufwFiles + "; do cat /usr/share/ufw/$file >/etc/ufw/$file; done\n" +
		"echo net/ipv4/conf/all/accept_redirects=0 >/etc/ufw/sysctl.conf\n" +
		"cat >\"$WORK/ufw\" <<'END'\n" + ufwDefaults + "END\n" + "mount --bind \"$WORK/ufw\" /etc/default/ufw\n",
	"firewalld": "mount -t tmpfs -o mode=0755 tmpfs /etc/firewalld; mount -t tmpfs -o mode=0755 tmpfs /var/log\n" +
		"cat >\"$WORK/bus.conf\" <<'END'\n" + firewalldBus + "END\n" +
		"cat >/etc/firewalld/firewalld.conf <<'END'\n" + fmt.Sprintf(firewalldConf, "nftables") + "END\n" +
		`mkdir /run/dbus
dbus-daemon --config-file="$WORK/bus.conf" --nofork --nopidfile >"$WORK/bus.log" 2>&1 &
until test -S /run/dbus/system_bus_socket; do sleep 0.05; done
firewalld --nofork --nopid >"$WORK/firewalld.log" 2>&1 &
until firewall-cmd --state >"$WORK/state" 2>&1; do sleep 0.1; done
`,
}

// Addresses of the documentation's hosts. The services are on the server, or behind the router.
var (
	siteServices = prefixes("192.0.2.1/24 192.0.2.10/24 192.0.2.20/24 192.0.2.25/24 2001:db8::1/64 2001:db8::10/64 2001:db8::25/64")
	siteClient   = prefixes("192.0.2.200/24 2001:db8::200/64")
	siteBackends = prefixes("192.0.2.10/24 192.0.2.11/24 192.0.2.12/24 192.0.2.25/24 2001:db8::10/64 2001:db8::11/64 2001:db8::25/64")
	siteInside   = prefixes("192.0.2.1/24 2001:db8::1/64")
	siteOutside  = prefixes("198.51.100.1/24 2001:db8:1::1/64")
	siteFar      = prefixes("198.51.100.200/24 2001:db8:1::200/64")
)

func prefixes(text string) (list []netip.Prefix) {
	for _, word := range strings.Fields(text) {
		list = append(list, netip.MustParsePrefix(word))
	}
	return list
}

// server makes a host with services of its own, and a client.
func (s *site) server(t *testing.T) {
	t.Helper()
	l, host := s.lab(t, "server", "client")
	join(t, l, lab.Port{Host: host["client"], Name: "eth0", Addresses: siteClient}, lab.Port{Host: s.host, Name: "eth0", Addresses: siteServices})
	serveDocs(t, s.host)
}

// router makes a router, a server behind it, and a client before it.
func (s *site) router(t *testing.T) {
	t.Helper()
	l, host := s.lab(t, "router", "client", "backend")
	join(t, l, lab.Port{Host: host["client"], Name: "eth0", Addresses: siteFar}, lab.Port{Host: s.host, Name: "eth0", Addresses: siteOutside})
	join(t, l, lab.Port{Host: host["backend"], Name: "eth0", Addresses: siteBackends}, lab.Port{Host: s.host, Name: "eth1", Addresses: siteInside})
	for i, all := range prefixes("0.0.0.0/0 ::/0") {
		for name, via := range map[string]netip.Prefix{"client": siteOutside[i], "backend": siteInside[i]} {
			if err := host[name].AddRoute(all, via.Addr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.host.Forward(); err != nil {
		t.Fatal(err)
	}
	serveDocs(t, host["backend"])
}

// docker makes a host of Docker with its rules, a container, and a client.
func (s *site) docker(t *testing.T) {
	t.Helper()
	l, host := s.lab(t, "server", "client", "container")
	join(t, l, lab.Port{Host: host["client"], Name: "eth0", Addresses: siteClient}, lab.Port{Host: s.host, Name: "eth0", Addresses: prefixes("192.0.2.1/24 192.0.2.2/24")})
	join(t, l, lab.Port{Host: host["container"], Name: "eth0", Addresses: prefixes("172.17.0.2/16 172.17.0.3/16")}, lab.Port{Host: s.host, Name: "docker0", Addresses: prefixes("172.17.0.1/16")})
	if err := errors.Join(host["container"].AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("172.17.0.1")), s.host.Forward()); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("eth1", "docker0", "$SERVICE", "172.17.0.2", "$TARGET", "172.17.0.2", "$INSIDE", "172.17.0.0/16", "$LOOPBACK", "127.0.0.0/8").Replace(dockerRules)
	runInput(t, s.host, text, "iptables-nft-restore", "--noflush", "-w", "5")
	serveDocs(t, host["container"])
}

// lab makes the hosts of a site.
func (s *site) lab(t *testing.T, name string, others ...string) (*lab.Lab, map[string]*lab.Host) {
	t.Helper()
	l := world.NewLab()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	for _, other := range append(others, name) {
		h, err := l.Host(other)
		if err != nil {
			t.Fatal(err)
		}
		s.others[other] = h
	}
	s.host = s.others[name]
	delete(s.others, name)
	return l, s.others
}

func join(t *testing.T, l *lab.Lab, a, b lab.Port) {
	t.Helper()
	if err := l.Link(a, b, 0); err != nil {
		t.Fatal(err)
	}
}

// serveDocs has web servers, and servers that speak first, on all addresses of a host.
func serveDocs(t *testing.T, host *lab.Host) {
	t.Helper()
	for _, port := range []uint16{22, 25, 587} {
		serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(netip.IPv6Unspecified(), port), Mode: lab.ServerFirst})
	}
	web := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "It works!\n")
	})}
	t.Cleanup(func() { web.Close() })
	for _, port := range []string{"80", "443", "8080"} {
		err := host.Do(func() error {
			lc := net.ListenConfig{}
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(t.Context(), "tcp", ":"+port)
			if err == nil {
				go func() { _ = web.Serve(l) }() // until it is closed
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
