package demo

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ServerCounters is what the server's kernel counts about SYNs that it cannot keep, from the TcpExt lines of
// /proc/net/netstat (net/ipv4/proc.c, Linux 6.18; nstat shows the same).
type ServerCounters struct {
	// ListenOverflows counts connections refused because the accept queue was full.
	ListenOverflows uint64 `json:"listen_overflows"`
	// ListenDrops counts SYNs and ACKs dropped by a listening socket, for any reason.
	ListenDrops uint64 `json:"listen_drops"`
	// QueueFullDrops counts SYNs dropped because the SYN queue was full.
	QueueFullDrops uint64 `json:"req_q_full_drop"`
	// QueueFullCookies counts SYNs answered by a cookie because the SYN queue was full.
	QueueFullCookies uint64 `json:"req_q_full_do_cookies"`
	// CookiesSent counts SYN cookies sent, CookiesReceived those that came back and were right.
	CookiesSent     uint64 `json:"syncookies_sent"`
	CookiesReceived uint64 `json:"syncookies_recv"`
}

// since returns what was counted between earlier and c.
func (c ServerCounters) since(earlier ServerCounters) ServerCounters {
	return ServerCounters{
		ListenOverflows:  c.ListenOverflows - earlier.ListenOverflows,
		ListenDrops:      c.ListenDrops - earlier.ListenDrops,
		QueueFullDrops:   c.QueueFullDrops - earlier.QueueFullDrops,
		QueueFullCookies: c.QueueFullCookies - earlier.QueueFullCookies,
		CookiesSent:      c.CookiesSent - earlier.CookiesSent,
		CookiesReceived:  c.CookiesReceived - earlier.CookiesReceived,
	}
}

// serverCounters reads the counters of the server.
func (s *stage) serverCounters() (ServerCounters, error) {
	var c ServerCounters
	err := s.topo.Server.Do(func() error {
		const path = "/proc/thread-self/net/netstat"
		text, err := os.ReadFile(path)
		if err == nil {
			c, err = parseServerCounters(string(text))
		}
		if err != nil {
			return fmt.Errorf("server: %s: %w", path, err)
		}
		return nil
	})
	return c, err
}

// parseServerCounters reads the text of /proc/net/netstat: pairs of lines, names and then numbers. A counter that
// this kernel does not have is an error, since 0 would be a lie.
func parseServerCounters(text string) (ServerCounters, error) {
	var c ServerCounters
	values, err := tcpExt(text)
	if err != nil {
		return c, err
	}
	for name, to := range map[string]*uint64{
		"ListenOverflows": &c.ListenOverflows, "ListenDrops": &c.ListenDrops,
		"TCPReqQFullDrop": &c.QueueFullDrops, "TCPReqQFullDoCookies": &c.QueueFullCookies,
		"SyncookiesSent": &c.CookiesSent, "SyncookiesRecv": &c.CookiesReceived,
	} {
		value, ok := values[name]
		if !ok {
			return c, fmt.Errorf("no counter TcpExt%s", name)
		}
		if *to, err = strconv.ParseUint(value, 10, 64); err != nil {
			return c, fmt.Errorf("counter TcpExt%s: %w", name, err)
		}
	}
	return c, nil
}

// tcpExt returns the TcpExt counters by name.
func tcpExt(text string) (map[string]string, error) {
	var found [][]string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "TcpExt:" {
			found = append(found, f[1:])
		}
	}
	if len(found) != 2 || len(found[0]) != len(found[1]) {
		return nil, fmt.Errorf("%d lines of TcpExt that do not fit", len(found))
	}
	values := map[string]string{}
	for i, name := range found[0] {
		values[name] = found[1][i]
	}
	return values, nil
}
