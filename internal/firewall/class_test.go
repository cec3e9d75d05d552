package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestClasses looks at every service of many, though those of one class must all be alike.
func TestClasses(t *testing.T) {
	mixed := "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -d 192.0.2.16/28 -p tcp -m tcp --dport 80:82 -j ACCEPT\n" +
		"-A FORWARD -d 192.0.2.40/32 -p tcp -m multiport --dports 80,443 -m conntrack --ctstate NEW -j ACCEPT\n" +
		"-A FORWARD -m iprange --dst-range 192.0.2.50-192.0.2.60 -j ACCEPT\n-A FORWARD -s 198.51.100.0/24 -d 192.0.2.128/25 -j ACCEPT\nCOMMIT\n" +
		table("mangle", "-A PREROUTING -d 192.0.2.44 -m conntrack --ctstate INVALID -j DROP\n-A OUTPUT ! -s 192.0.2.0/26 -j DROP")
	for _, tt := range []struct {
		name string
		fw   Firewall
		most int // classes of the 6 * 256 * 7 services
	}{
		{"nothing", parse(t, ""), 6},
		{"mixed", parse(t, mixed), 450},
		{"odd mask", parse(t, filter("-A INPUT -d 192.0.2.1/255.255.255.1 -p tcp -j DROP")), 1536},
		{"ufw", loadFile(t, "ufw.save"), 300},
		{"Docker", loadFile(t, "docker.save"), 300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			classes, seen := tt.fw.Classes(), map[Class]string{}
			for last := range 256 {
				for _, port := range []uint16{1, 22, 80, 81, 443, 5432, 8080} {
					at := netip.AddrFrom4([4]byte{192, 0, 2, byte(last)})
					local, routed := service(Input, false), service(Input, false)
					local.To, local.ToLocal = netip.AddrPortFrom(at, port), true
					routed.To, routed.Out = local.To, []string{"eth1"}
					for i, s := range []Service{service(Input, true), service(Input, false), service(Forward, true), service(Forward, false), local, routed} {
						if s.To.IsValid() {
							s.Destination, s.Port = netip.MustParsePrefix("198.51.100.1/32"), 9
						} else {
							s.Destination, s.Port = netip.PrefixFrom(at, 32), port
						}
						fate, restricts := tt.fw.Restricts(s)
						answer := fmt.Sprint(strings.Join(codes(tt.fw.Blockers(s)), ","), fate.Outcome, restricts)
						class := classes.Of(s)
						if other, ok := seen[class]; ok && other != answer {
							t.Fatalf("%s:%d (%d): %s, but another of class %+v: %s", s.Destination, port, i, answer, class, other)
						}
						seen[class] = answer
					}
				}
			}
			if len(seen) > tt.most {
				t.Errorf("%d classes, want %d at most", len(seen), tt.most)
			}
		})
	}
}
