package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckInterfaceName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"lo", "eth0", "eth0.100", "br-lan", "enp0s31f6", "wg_é", "a23456789012345", "a+b"} {
		if err := CheckInterfaceName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "a234567890123456", "eth 0", "eth0\n", "a/b", "eth0:1", "eth+", "-i", "!lo", "a;b", "a\x00",
		"a'b", `a"b`, "$(x)", "a*", "\xff", "a\u00a0b",
	} {
		if err := CheckInterfaceName(name); !errors.Is(err, ErrInterfaceName) {
			t.Errorf("%q: %v, want ErrInterfaceName", name, err)
		}
		if _, err := InterfaceExists(name); !errors.Is(err, ErrInterfaceName) {
			t.Errorf("InterfaceExists(%q): %v, want ErrInterfaceName", name, err)
		}
	}
}

func TestRequireNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	both := []Capability{NetAdmin, NetRaw}
	for _, tt := range []struct {
		have Capabilities
		want string
	}{
		{1<<NetAdmin | 1<<NetRaw, ""},
		{1 << NetAdmin, "not permitted: missing CAP_NET_RAW"},
		{1 << NetRaw, "not permitted: missing CAP_NET_ADMIN"},
		{0, "not permitted: missing CAP_NET_ADMIN and CAP_NET_RAW"},
	} {
		err := tt.have.require(both)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%b: %v", tt.have, err)
			}
			continue
		}
		if err == nil || err.Error() != tt.want || !errors.Is(err, os.ErrPermission) {
			t.Errorf("%b: %v, want %q and os.ErrPermission", tt.have, err, tt.want)
		}
	}
	if Capabilities(1).Has(64) {
		t.Error("capability 64 is the same as 0")
	}
	if got := Capability(40).String(); got != "capability 40" {
		t.Errorf("capability 40 is called %q", got)
	}
}

// TestEffectiveCapabilities compares with what /proc says of this thread.
func TestEffectiveCapabilities(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	got, err := EffectiveCapabilities()
	if err != nil {
		t.Fatal(err)
	}
	if line := fmt.Sprintf("\nCapEff:\t%016x\n", uint64(got)); !strings.Contains(string(text), line) {
		t.Errorf("no line %q in\n%s", line, text)
	}
}

func TestNetNSID(t *testing.T) {
	t.Parallel()
	id, err := NetNSID()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := NetNSID(); again != id || !regexp.MustCompile(`^(cookie|inode)-[0-9]+$`).MatchString(id) {
		t.Errorf("NetNSID = %q, then %q", id, again)
	}
	inode, err := netNSInode()
	if err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if want := "inode-" + strings.Trim(link, "net:[]"); inode != want {
		t.Errorf("inode is %q, want %q", inode, want)
	}
}

func TestReadNumberRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "count")
	if _, err := readNumber(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(path, []byte("many\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := readNumber(path); err == nil {
		t.Errorf("a word reads as %d", n)
	}
}

func TestProxiedConnectionsStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ProxiedConnections(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestRouteRefuses(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if _, err := Route(netip.Addr{}, v4); err == nil {
		t.Error("no destination: no error")
	}
	if _, err := Route(v4, v6); err == nil {
		t.Error("source of the other family: no error")
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		unix.ENETUNREACH: "no route", unix.EHOSTUNREACH: "an unreachable route", unix.EACCES: "a prohibit route",
		unix.EINVAL: "a blackhole route", unix.EPERM: "", nil: "",
	} {
		if got := unreachable(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
