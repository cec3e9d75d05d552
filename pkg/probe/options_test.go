package probe

import "testing"

func TestOptionsPrint(t *testing.T) {
	for _, tt := range []struct {
		options       Options
		iptables, nft string
	}{
		{Options{}, "", ""},
		{Options{MSS: ptr[uint16](1460)}, "--mss 1460", "mss 1460"},
		{Options{WScale: ptr[uint8](0)}, "--wscale 0", "wscale 0"},
		{Options{SACKPerm: true}, "--sack-perm", "sack-perm"},
		{Options{Timestamps: true}, "--timestamp", "timestamp"},
		{
			Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](9), SACKPerm: true, Timestamps: true},
			"--sack-perm --timestamp --mss 1460 --wscale 9", "mss 1460 wscale 9 timestamp sack-perm",
		},
	} {
		if got := tt.options.IPTables(); got != tt.iptables {
			t.Errorf("IPTables() = %q, want %q", got, tt.iptables)
		}
		if got := tt.options.NFT(); got != tt.nft {
			t.Errorf("NFT() = %q, want %q", got, tt.nft)
		}
	}
}
