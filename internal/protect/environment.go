package protect

import (
	"context"
	"fmt"
	"slices"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// environment finds what of the host, apart from its rules, breaks or weakens
// the protection of services: routes, settings, and the size of tables.
func (h *Host) environment(ctx context.Context, services []Service, out outlook) ([]Finding, error) {
	if err := out.routes.ask(ctx, services); err != nil {
		return nil, err
	}
	found := append(h.settingsInTheWay(services), checksums(services, out.backend)...)
	for _, f := range rules.Families {
		mine := ofFamily(services, f)
		if len(mine) == 0 {
			continue
		}
		fs, err := routing(f, mine, out)
		if err != nil {
			return nil, err
		}
		found = append(found, fs...)
	}
	if f, ok := tableSize(kernel.ConntrackCount()); ok {
		found = append(found, f)
	}
	return found, nil
}

// ofFamily returns the services of a family: the very list if all are.
func ofFamily(services []Service, f rules.Family) []Service {
	n := 0
	for i := range services {
		if services[i].Family() == f {
			n++
		}
	}
	if n == len(services) {
		return services
	}
	mine := make([]Service, 0, n)
	for i := range services {
		if services[i].Family() == f {
			mine = append(mine, services[i])
		}
	}
	return mine
}

func isIPv6(s Service) bool { return s.Family() == rules.IPv6 }

// checksums tells what the kernel's nft_synproxy_do_eval gets wrong (net/netfilter/nft_synproxy.c,
// Linux 5.3 to 6.18): it takes the checksum of every packet for one of IPv4, unless
// the network card has already found it right, and drops what seems wrong.
func checksums(services []Service, backend string) []Finding {
	i := slices.IndexFunc(services, isIPv6)
	if backend != rules.NFTables || i < 0 {
		return nil
	}
	return []Finding{finding(Warn, "ipv6-checksum", "use --backend iptables for services of IPv6",
		"%s: the kernel's nft takes checksums of IPv6 for those of IPv4: who comes by a network card that does not check them gets no answer", services[i])}
}

func kernelFamily(f rules.Family) kernel.Family {
	if f == rules.IPv6 {
		return kernel.IPv6
	}
	return kernel.IPv4
}

// settingsInTheWay looks at sysctls. One that cannot be read is none.
func (h *Host) settingsInTheWay(services []Service) []Finding {
	get := func(key string) string {
		value, _ := h.Sysctl.Get(key)
		return value
	}
	var found []Finding
	forwarding := map[rules.Family]string{rules.IPv4: "net.ipv4.ip_forward", rules.IPv6: "net.ipv6.conf.all.forwarding"}
	for _, f := range rules.Families {
		routed := slices.IndexFunc(services, func(s Service) bool { return s.Family() == f && s.Hook == rules.Forward })
		if routed >= 0 && get(forwarding[f]) == "0" {
			found = append(found, finding(Warn, "not-forwarding", "sysctl -w "+forwarding[f]+"=1",
				"%s: it is behind this host, which does not forward packets: %s is 0", services[routed], forwarding[f]))
		}
	}
	local := slices.IndexFunc(services, func(s Service) bool { return s.Hook == rules.Input && !s.Translated() })
	if local >= 0 && get("net.ipv4.tcp_syncookies") == "2" {
		found = append(found, finding(Warn, "backend-syn-cookies-always", "sysctl -w net.ipv4.tcp_syncookies=1: behind SYNPROXY the server needs no cookies of its own",
			"%s: the server, which is this host, answers every SYN with a cookie of its own (net.ipv4.tcp_syncookies=2): a connection on which its client says nothing for a minute is lost", services[local]))
	}
	if local >= 0 && get("net.ipv4.tcp_timestamps") == "0" {
		found = append(found, finding(Warn, "no-timestamps-here", "sysctl -w net.ipv4.tcp_timestamps=1",
			"%s: timestamps are off on the server, which is this host: clients get neither window scaling nor SACK", services[local]))
	}
	return found
}

// tableSize judges the connection tracking table: of the connections that there
// are, the proxied ones need an entry each, as without us.
func tableSize(count, limit int, err error) (Finding, bool) {
	const nearly = 0.8
	if err != nil || limit == 0 || float64(count) < nearly*float64(limit) {
		return Finding{}, false
	}
	const bytesEach = 300
	want := 1 << 16
	for want < 2*count {
		want *= 2
	}
	return finding(Warn, "conntrack-small", fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d (some %d MB); if a flood fills it, protecting the service stops that", want, want*bytesEach>>20),
		"the connection tracking table holds %d of at most %d entries; when it is full, new connections are dropped", count, limit), true
}
