package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// A lane is a host on which a sequence is killed again and again.
type lane struct {
	t         *testing.T
	seq       sequence
	topo      *lab.Topology
	fw        *lab.Host
	backend   string // of the protection before
	target    string // of the protection after
	absent    string // how the host is without protection
	begun     string // how it is before the sequence
	wanted    string // how it is when the sequence has succeeded
	try       string // the name of what is on trial
	old       []*talker
	idle      []*talker // that say nothing until all is over
	proxied   []*talker
	addresses []netip.AddrPort
}

func newLane(t *testing.T, seq sequence, backend string) *lane {
	t.Helper()
	l := &lane{t: t, seq: seq, topo: newTopology(t), backend: backend, target: backend}
	l.fw = l.topo.Firewall
	if seq.move {
		l.target = another(backend)
	}
	if seq.unwatched {
		l.addresses = append(l.addresses, place{rules.Input, rules.IPv4}.serve(t, l.topo, 80, lab.ServerConfig{Mode: lab.ClientFirst}))
		for _, table := range line("raw mangle filter security") { // which cannot be unmade
			run(t, l.fw, "iptables-legacy", "-t", table, "-S")
		}
	} else {
		for _, port := range []uint16{80, 81, 82, 90} {
			l.addresses = append(l.addresses, on4.serve(t, l.topo, port, lab.ServerConfig{Mode: lab.ClientFirst}))
		}
		l.addresses = append(l.addresses, place{rules.Forward, rules.IPv6}.serve(t, l.topo, 80, lab.ServerConfig{Mode: lab.ClientFirst}))
		foreignRules(t, l.fw)
		runInput(t, l.fw, trackAll, "nft", "-f", "-")
	}
	for _, a := range l.addresses {
		l.old = append(l.old, dialTalker(t, "before everything", l.topo.Client, a))
	}
	l.talk("before everything", l.old)
	l.absent = l.state()
	l.reset()
	l.begun = l.state()
	if seq.to != nil {
		l.apply(seq.to, l.target)
		l.wanted = l.state()
	}
	return l
}

// state is everything that the protection is on a host: in the kernel and in its record.
func (l *lane) state() string {
	l.t.Helper()
	return inAnyOrder(dump(l.t, l.fw)) + "== record\n" + hostRecord(l.t, l.fw)
}

func (l *lane) apply(services []protect.Service, backend string) {
	l.t.Helper()
	on(l.t, l.fw, func() error {
		_, err := (&protect.Host{LockTimeout: time.Minute}).Apply(l.t.Context(), protect.Order{Services: services, Backend: backend, Warmup: l.seq.do.Warmup})
		return err
	})
}

// reset leads the host to where the sequence begins.
func (l *lane) reset() {
	l.t.Helper()
	for _, c := range l.proxied {
		c.conn.Close()
	}
	l.proxied = nil
	l.quiet()
	on(l.t, l.fw, func() error {
		_, err := (&protect.Host{LockTimeout: time.Minute}).Revert(l.t.Context(), protect.Removal{Now: true})
		return err
	})
	if l.seq.unwatched {
		l.idle = append(l.idle, dialTalker(l.t, "idle", l.topo.Client, l.addresses[0]))
	}
	if l.seq.from != nil {
		l.apply(l.seq.from, l.backend)
	}
	if l.seq.held {
		l.connect()
	}
	if l.seq.pending == 0 {
		return
	}
	on(l.t, l.fw, func() error {
		_, err := (&protect.Host{}).Apply(l.t.Context(), protect.Order{
			Services: l.seq.to, Backend: l.target, Try: l.seq.pending,
			Guard: func(name string) (func(), error) { l.try = name; return func() {}, nil },
		})
		return err
	})
}

// connect opens a proxied connection to each service.
func (l *lane) connect() {
	l.t.Helper()
	for _, s := range l.seq.from {
		l.proxied = append(l.proxied, dialTalker(l.t, "proxied", l.topo.Client, netip.AddrPortFrom(s.Destination.Addr(), s.Port)))
	}
	l.talk("before the deed", l.proxied)
}

// quiet ends the connections that said nothing so far.
func (l *lane) quiet() {
	l.t.Helper()
	l.talk("all over, idle", l.idle)
	for _, c := range l.idle {
		c.conn.Close()
	}
	l.idle = nil
}

// talk speaks on open connections, which must answer within a second.
func (l *lane) talk(when string, list []*talker) {
	l.t.Helper()
	for _, c := range list {
		start := time.Now()
		err := c.talk()
		if took := time.Since(start); err != nil || took > time.Second {
			l.t.Errorf("%s: connection to %v: %v after %v", when, c.conn.RemoteAddr(), err, took)
		}
	}
}

// works checks that nobody notices anything.
func (l *lane) works(when string, all bool) {
	l.t.Helper()
	l.talk(when+", not proxied", l.old)
	if all {
		l.talk(when+", proxied", l.proxied)
	}
	for _, a := range l.addresses {
		res := load(l.t, l.topo.Client, a, lab.LoadConfig{Connections: 1, Mode: lab.ClientFirst, Timeout: 2 * time.Second})
		if res.OK != 1 || res.Max() > time.Second {
			l.t.Errorf("%s: a new connection to %s: %v", when, a, res)
		}
	}
}

// looks checks that the host can be looked at.
func (l *lane) looks(when string) {
	l.t.Helper()
	if stdout, stderr, exit := synproxyctl(l.t, l.fw, "status", "--json"); exit != 0 {
		l.t.Errorf("%s: status: exit %d: %s%s", when, exit, stdout, stderr)
	}
	if stdout, stderr, exit := synproxyctl(l.t, l.fw, "verify", "--json"); exit != 0 && exit != 3 {
		l.t.Errorf("%s: verify: exit %d: %s%s", when, exit, stdout, stderr)
	}
}
