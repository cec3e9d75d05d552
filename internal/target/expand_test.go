package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// zone answers like a name server that knows the names in it.
type zone map[string][]string

func (z zone) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	switch {
	case network != "ip":
		return nil, errors.New("asked for one family only")
	case host == "slow.example":
		<-ctx.Done()
		return nil, ctx.Err()
	case host == "broken.example":
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}
	words, ok := z[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var addrs []netip.Addr
	for _, w := range words {
		addrs = append(addrs, netip.MustParseAddr(w))
	}
	return addrs, nil
}

var names = zone{
	"pool.example":  {"2001:db8::2", "192.0.2.9", "2001:db8::1", "::ffff:192.0.2.1", "192.0.2.9"},
	"empty.example": nil,
}

func mustRead(t *testing.T, words ...string) []Spec {
	t.Helper()
	specs, err := Read(words, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	return specs
}

func TestExpand(t *testing.T) {
	t.Parallel()
	specs := mustRead(t, "192.0.2.9:443", "pool.example:80,443", "192.0.2.0/24:80", "[fe80::1%eth0]:80", "[fe80::1%eth1]:80", "pool.example:80")
	got, err := Expand(t.Context(), names, specs)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, target := range got {
		lines = append(lines, fmt.Sprintf("%s from %s (%s)", target, target.Text, target.Name))
	}
	want := []string{
		"192.0.2.9:443 from 192.0.2.9:443 ()",
		"192.0.2.1:80 from pool.example:80,443 (pool.example)",
		"192.0.2.1:443 from pool.example:80,443 (pool.example)",
		"192.0.2.9:80 from pool.example:80,443 (pool.example)",
		"[2001:db8::1]:80 from pool.example:80,443 (pool.example)",
		"[2001:db8::1]:443 from pool.example:80,443 (pool.example)",
		"[2001:db8::2]:80 from pool.example:80,443 (pool.example)",
		"[2001:db8::2]:443 from pool.example:80,443 (pool.example)",
		"192.0.2.0/24:80 from 192.0.2.0/24:80 ()",
		"[fe80::1%eth0]:80 from [fe80::1%eth0]:80 ()",
		"[fe80::1%eth1]:80 from [fe80::1%eth1]:80 ()",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
}

func TestExpandReturnsEveryNameThatFails(t *testing.T) {
	t.Parallel()
	specs := mustRead(t, "absent.example:80", "pool.example:80", "broken.example:80", "empty.example:80", "absent.example:81")
	got, err := Expand(t.Context(), names, specs)
	want := `target "absent.example:80": the name has no address: lookup absent.example: no such host` + "\n" +
		`target "broken.example:80": cannot resolve the name: lookup broken.example: server misbehaving` + "\n" +
		`target "empty.example:80": the name has no address`
	if err == nil || err.Error() != want || got != nil {
		t.Errorf("%v, error:\n%v\nwant:\n%s", got, err, want)
	}
	var hinter interface{ Hint() string }
	if !errors.As(err, &hinter) || hinter.Hint() == "" {
		t.Error("no hint")
	}
	if dns := (*net.DNSError)(nil); !errors.As(err, &dns) {
		t.Error("the resolver's error is lost")
	}
}

func TestExpandStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	got, err := Expand(ctx, names, mustRead(t, "slow.example:80"))
	if !errors.Is(err, context.DeadlineExceeded) || got != nil {
		t.Errorf("%v, %v; want context.DeadlineExceeded", got, err)
	}
}

func TestExpandIsBounded(t *testing.T) {
	t.Parallel()
	var ports []uint16
	for port := range 60_000 {
		ports = append(ports, uint16(port+1))
	}
	specs := []Spec{{Prefix: prefix("192.0.2.1/32"), Ports: ports}, {Prefix: prefix("192.0.2.2/32"), Ports: ports}}
	got, err := Expand(t.Context(), names, specs)
	if err == nil || !strings.Contains(err.Error(), "more than 100000 targets") {
		t.Errorf("%d targets, error %v", len(got), err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		word         string
		probe, apply string // parts of the errors; empty for none
	}{
		{"192.0.2.1:80", "", ""},
		{"[2001:db8::1]:80", "", ""},
		{"[fd00::1]:80", "", ""},
		{"169.254.1.1:80", "", ""},
		{"192.0.2.0/24:80", "a prefix cannot be probed", ""},
		{"[2001:db8::/32]:80", "a prefix cannot be probed", ""},
		{"127.0.0.1:80", "", "127.0.0.1 is a loopback address"},
		{"[::1]:80", "", "::1 is a loopback address"},
		{"[::ffff:127.0.0.1]:80", "", "127.0.0.1 is a loopback address"},
		{"[fe80::1%eth0]:80", "", "fe80::1 is a link-local address"},
		{"[fe80::1]:80", "", "fe80::1 is a link-local address"},
		{"[2001:db8::1%eth0]:80", "", "an address with a zone"},
		{"0.0.0.0:80", "unspecified", "unspecified"},
		{"0.1.2.3:80", "unspecified", "unspecified"},
		{"[::]:80", "unspecified", "unspecified"},
		{"224.0.0.1:80", "multicast", "multicast"},
		{"239.255.255.255:80", "multicast", "multicast"},
		{"[ff02::1]:80", "multicast", "multicast"},
		{"255.255.255.255:80", "broadcast", "broadcast"},
		{"0.0.0.0/0:80", "a prefix cannot be probed", "holds unspecified addresses"},
		{"128.0.0.0/1:80", "a prefix cannot be probed", "holds multicast addresses"},
		{"[::/0]:80", "a prefix cannot be probed", "holds unspecified addresses"},
		{"[fe80::/16]:80", "a prefix cannot be probed", "holds link-local addresses"},
	} {
		targets, err := Expand(t.Context(), names, mustRead(t, tt.word))
		if err != nil {
			t.Fatal(err)
		}
		for what, pair := range map[string]struct {
			err  error
			want string
		}{"probe": {targets[0].CheckProbe(), tt.probe}, "apply": {targets[0].CheckApply(), tt.apply}} {
			if pair.want == "" {
				if pair.err != nil {
					t.Errorf("%s %s: %v", what, tt.word, pair.err)
				}
				continue
			}
			var e *Error
			if !errors.As(pair.err, &e) || !strings.Contains(e.Error(), pair.want) || e.Hint() == "" || e.Subject != tt.word {
				t.Errorf("%s %s: %v, want %q", what, tt.word, pair.err, pair.want)
			}
		}
	}
}

func TestCheckNamesTheLine(t *testing.T) {
	t.Parallel()
	specs, err := ParseList(strings.NewReader("192.0.2.1:80\n127.0.0.1:80\n"), "list")
	if err != nil {
		t.Fatal(err)
	}
	targets, err := Expand(t.Context(), names, specs)
	if err != nil {
		t.Fatal(err)
	}
	if err := targets[1].CheckApply(); err == nil || !strings.HasPrefix(err.Error(), `list:2: target "127.0.0.1:80": `) {
		t.Errorf("error %v does not name the line", err)
	}
}
