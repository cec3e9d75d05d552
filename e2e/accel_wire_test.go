package e2e

import (
	"io"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpf "github.com/cilium/ebpf/link"

	"github.com/synproxyctl/synproxyctl/internal/accel"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestAccelOverTheWire lets the program answer in front of real rules, and real clients connect: the cookie that it gave
// is netfilter's own, and netfilter sees no SYN.
func TestAccelOverTheWire(t *testing.T) {
	attach := map[string]func(index int, p *accel.Program) (io.Closer, error){
		"tc": func(index int, p *accel.Program) (io.Closer, error) {
			return bpf.AttachTCX(bpf.TCXOptions{Interface: index, Program: p.TC(), Attach: ebpf.AttachTCXIngress})
		},
		"xdp": func(index int, p *accel.Program) (io.Closer, error) {
			return bpf.AttachXDP(bpf.XDPOptions{Interface: index, Program: p.XDP(), Flags: bpf.XDPDriverMode})
		},
		"xdp-generic": func(index int, p *accel.Program) (io.Closer, error) {
			return bpf.AttachXDP(bpf.XDPOptions{Interface: index, Program: p.XDP(), Flags: bpf.XDPGenericMode})
		},
	}
	for name, attach := range attach {
		for _, server := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
			t.Run(name+"/"+string(rules.FamilyOf(server)), func(t *testing.T) {
				topo := newTopology(t)
				web := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0), Mode: lab.ClientFirst}).Address()
				mustDo(t, topo.Firewall, 0, append([]string{"apply", web.String(), "--first", "client", "--interface", "eth0"}, explicit...)...)
				services := []rules.Service{{
					Destination: netip.PrefixFrom(server, server.BitLen()), Port: web.Port(),
					Options: rules.Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](10), SACKPerm: true, Timestamps: true},
				}}
				p := loadAccel(t, macOf(t, topo.Firewall, "eth0"), accel.Entries(services, accel.Link{TTL: 64, HopLimit: 64}))
				if name == "xdp" {
					passXDP(t, topo.Client, "eth0")
				}
				index, err := topo.Firewall.Netlink().LinkByName("eth0")
				if err != nil {
					t.Fatal(err)
				}
				var attached io.Closer
				if err := topo.Firewall.Do(func() (err error) {
					attached, err = attach(index.Attrs().Index, p)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { attached.Close() })
				allGood(t, topo.Client, web, lab.LoadConfig{Connections: 50, Mode: lab.ClientFirst})
				n, err := p.Counters()
				if err != nil || n.Answered < 50 || n.Failed != 0 {
					t.Errorf("counters %+v, %v", n, err)
				}
				on(t, topo.Firewall, func() error {
					stats, err := kernel.ReadSynproxyStats()
					if stats.SYNReceived != 0 || stats.CookieValid < 50 {
						t.Errorf("netfilter: %+v", stats)
					}
					return err
				})
			})
		}
	}
}

// passXDP gives an interface a program that lets everything pass. The other end of a veth sends XDP frames only to such.
func passXDP(t *testing.T, host *lab.Host, iface string) {
	t.Helper()
	const pass = 2
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	index, err := host.Netlink().LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	err = host.Do(func() error {
		l, err := bpf.AttachXDP(bpf.XDPOptions{Interface: index.Attrs().Index, Program: p, Flags: bpf.XDPDriverMode})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
