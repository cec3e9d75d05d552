package main

import (
	"context"
	"fmt"
	"strings"
)

// serverScale is the window scale of the sites' servers, with the kernel's default tcp_rmem.
const serverScale = "10"

// stockXtables is the recipe of iptables-extensions(8), for each service, on a machine that forwards, with the options
// that the man page has. The three commands come as one restore, which is the fastest way there is.
func stockXtables(variant string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		if err := s.Firewall.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
			return err
		}
		var raw, filter strings.Builder
		for i := range s.size {
			match := fmt.Sprintf("-d %s -p tcp --dport %d", service(i), s.port)
			fmt.Fprintf(&raw, "-A PREROUTING %s --syn -j CT --notrack\n", match)
			fmt.Fprintf(&filter, "-A FORWARD %s -m state --state UNTRACKED,INVALID -j SYNPROXY --sack-perm --timestamp --mss 1460 --wscale 9\n", match)
			fmt.Fprintf(&filter, "-A FORWARD %s -m state --state INVALID -j DROP\n", match)
		}
		input := "*filter\n" + filter.String() + "COMMIT\n*raw\n" + raw.String() + "COMMIT\n"
		return s.feed(ctx, input, variant+"-restore", "--noflush")
	}
}

// stockNft is the same in the words of nft(8) and of the nftables wiki.
func stockNft(ctx context.Context, s *site) error {
	if err := s.Firewall.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
		return err
	}
	var raw, filter strings.Builder
	for i := range s.size {
		match := fmt.Sprintf("ip daddr %s tcp dport %d", service(i), s.port)
		fmt.Fprintf(&raw, "add rule ip stock prerouting %s tcp flags syn notrack\n", match)
		fmt.Fprintf(&filter, "add rule ip stock forward %s ct state invalid,untracked synproxy mss 1460 wscale 9 timestamp sack-perm\n", match)
		fmt.Fprintf(&filter, "add rule ip stock forward %s ct state invalid drop\n", match)
	}
	input := "add table ip stock\n" +
		"add chain ip stock prerouting { type filter hook prerouting priority raw; policy accept; }\n" +
		"add chain ip stock forward { type filter hook forward priority filter; policy accept; }\n" +
		filter.String() + raw.String()
	return s.feed(ctx, input, "nft", "-f", "-")
}
