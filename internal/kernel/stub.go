package kernel

import (
	"context"
	"net/netip"
)

type Socket struct{ Local, Remote netip.AddrPort }

type Conn struct{}

func Tracking(ctx context.Context, six bool) (bool, error) { return true, nil }

func RoutedConnections(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	return 0, nil
}

func LocalConnections(ctx context.Context) ([]Socket, error) { return nil, nil }

func Carry(ctx context.Context, sockets []Socket) (int, error) { return 0, nil }

func HalfOpen(ctx context.Context, match func(netip.AddrPort) bool) ([]Conn, error) { return nil, nil }

func Forget(ctx context.Context, conns []Conn) (int, error) { return 0, nil }

func AliveProxied(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	return ProxiedConnections(ctx, match)
}
