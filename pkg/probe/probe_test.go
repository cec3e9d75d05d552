package probe

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestProbeRefusesBadConfig(t *testing.T) {
	target := []Target{{Name: "x:80", Addr: netip.MustParseAddrPort("127.0.0.1:80")}}
	for _, tt := range []struct {
		name    string
		cfg     Config
		targets []Target
		want    error
	}{
		{"negative count", Config{Count: -1}, target, ErrConfig},
		{"large count", Config{Count: 65}, target, ErrConfig},
		{"negative timeout", Config{Timeout: -1}, target, ErrConfig},
		{"negative banner wait", Config{BannerWait: -1}, target, ErrConfig},
		{"negative rate", Config{Rate: -1}, target, ErrConfig},
		{"large rate", Config{Rate: 1_000_001}, target, ErrConfig},
		{"unknown interface", Config{Interface: "no-such-link"}, target, os.ErrNotExist},
		{"overlong interface", Config{Interface: "a-name-longer-than-fifteen"}, target, os.ErrNotExist},
		{"foreign source", Config{Source: netip.MustParseAddr("192.0.2.77")}, target, ErrConfig},
		{"no address", Config{}, []Target{{Name: "x:80"}}, ErrConfig},
		{"port 0", Config{}, []Target{{Addr: netip.MustParseAddrPort("127.0.0.1:0")}}, ErrConfig},
	} {
		if _, err := Probe(t.Context(), tt.cfg, tt.targets); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestProbeOfNothing(t *testing.T) {
	results, err := Probe(t.Context(), Config{Connect: true}, nil)
	if err != nil || results == nil || len(results) != 0 {
		t.Errorf("got %v, %v, want an empty list", results, err)
	}
}

// TestProbeWithoutAnyWay asks what can be answered without sending, and so without rights.
func TestProbeWithoutAnyWay(t *testing.T) {
	var progress [][2]int
	cfg := Config{
		Source: netip.MustParseAddr("127.0.0.1"), Connect: true,
		Progress: func(done, total int) { progress = append(progress, [2]int{done, total}) },
	}
	six := netip.MustParseAddrPort("[2001:db8::1]:443")
	results, err := Probe(t.Context(), cfg, []Target{{Name: "host:443", Addr: six}, {Addr: six}})
	if err != nil {
		t.Fatal(err)
	}
	want := Result{
		Target: "host:443", Address: "2001:db8::1", Port: 443, Family: "ipv6", Verdict: Unreachable,
		Reason: "source-of-other-family", Consistent: true, Variants: []Variant{},
	}
	if diff := cmp.Diff(want, results[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if results[1].Target != "[2001:db8::1]:443" {
		t.Errorf("target without a name: %q", results[1].Target)
	}
	if diff := cmp.Diff([][2]int{{2, 2}}, progress); diff != "" {
		t.Errorf("progress of two targets that are one (-want +got):\n%s", diff)
	}
	results, err = Probe(t.Context(), Config{}, []Target{{Addr: netip.MustParseAddrPort("[fe80::1]:80")}})
	if err != nil || results[0].Reason != "no-zone" {
		t.Errorf("link-local address without a zone: %+v, %v", results, err)
	}
}

func TestLocalReason(t *testing.T) {
	for err, want := range map[error]string{
		unix.ENETUNREACH: "local-no-route",
		unix.EPERM:       "local-firewall",
		errNoZone:        "no-zone",
		unix.EIO:         "local-error",
	} {
		if got := localReason(errors.Join(errors.New("send"), err)); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

func TestResultJSON(t *testing.T) {
	server := Server
	r := classify([]sample{answered(full, 14480, 10, 3)}, familyIPv4, limit{})
	yes := true
	r.Target, r.Address, r.Port, r.Connected, r.Speaks = "192.0.2.42:80", "192.0.2.42", 80, &yes, &server
	const want = `{"target":"192.0.2.42:80","address":"192.0.2.42","port":80,"family":"ipv4","verdict":"direct",` +
		`"options":{"mss":1460,"wscale":9,"sack_perm":true,"timestamps":true},"window":14480,"ttl":64,"rtt_us":400,` +
		`"samples":1,"sent":1,"consistent":true,"variants":[],"connected":true,"speaks":"server",` +
		`"iptables":"--sack-perm --timestamp --mss 1460 --wscale 9","nft":"mss 1460 wscale 9 timestamp sack-perm"}`
	got, err := json.Marshal(r)
	if diff := cmp.Diff(want, string(got)); diff != "" || err != nil {
		t.Errorf("error %v, (-want +got):\n%s", err, diff)
	}
	const silent = `{"target":"","address":"","port":0,"family":"ipv6","verdict":"no-reply",` +
		`"options":{"mss":null,"wscale":null,"sack_perm":false,"timestamps":false},"window":null,"ttl":null,"rtt_us":null,` +
		`"samples":0,"sent":0,"consistent":true,"variants":[],"connected":null,"speaks":null,"iptables":"","nft":""}`
	got, err = json.Marshal(classify(nil, familyIPv6, limit{}))
	if diff := cmp.Diff(silent, string(got)); diff != "" || err != nil {
		t.Errorf("error %v, (-want +got):\n%s", err, diff)
	}
}

func TestRandomWordsDiffer(t *testing.T) {
	words, err := randomWords(64)
	seen := map[uint32]bool{}
	for _, word := range words {
		seen[word] = true
	}
	if err != nil || len(seen) < 60 {
		t.Errorf("%d different of 64, error %v", len(seen), err)
	}
}

func TestCancelledBeforeAnything(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Probe(ctx, Config{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
