package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A Target is one address and port to ask.
type Target struct {
	// Name is how the user wrote the target, with the port. If it is empty, Addr stands in for it.
	Name string
	// Addr is the address and port. A link-local address needs a zone, or [Config.Interface].
	Addr netip.AddrPort
}

// Config says how to ask. The zero value is ready to use.
type Config struct {
	// Count is the number of samples for each target, 1 to 64. Zero means 3. Servers that answer are asked once more. Each sample has a port of
	// ours, so that no two of a target's samples look like the same connection.
	Count int
	// Timeout is how long to wait for each answer, and for each connection. Zero means one second. After half of it a SYN that was not answered is
	// sent again.
	Timeout time.Duration
	// Interface names the interface that the SYN leaves by. For an address of this machine it names the interface through
	// which the clients come in, whose MTU limits the MSS. Empty means whatever the routes say.
	Interface string
	// Source is the source address, which must belong to this machine. The zero Addr means the one that the route prefers.
	Source netip.Addr
	// Rate is the number of SYN segments per second over all targets, at most a million. Zero means one at which all
	// segments take about three seconds, but at least 500 and at most 15,000.
	Rate int
	// Connect asks to complete one handshake with each target that gave a usable answer, to find who speaks first.
	Connect bool
	// BannerWait is how long a silent server is listened to before the client is taken to speak first. Zero means 1.5 seconds,
	// which is more than a server needs that waits for the retransmission of its SYN+ACK.
	BannerWait time.Duration
	// Progress, if not nil, is called from the calling goroutine whenever more targets are done.
	Progress func(done, total int)
	// Stage, if not nil, is called from the calling goroutine several times a second, whether or not anything is done: with what is going on ("probing", then
	// "connecting" with Connect), how many of the targets are done with that (of those that are half done, half), and how many there are.
	Stage func(what string, done, total int)
}

// ErrConfig is wrapped by the errors of [Probe] that only another Config can mend.
var ErrConfig = errors.New("bad probe configuration")

const (
	maxCount = 64
	maxRate  = 1_000_000
)

// withDefaults replaces the zero values, and refuses those that make no sense.
func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Count < 0 || c.Count > maxCount:
		return c, fmt.Errorf("%w: count %d is not within 1 and %d", ErrConfig, c.Count, maxCount)
	case c.Timeout < 0:
		return c, fmt.Errorf("%w: timeout %s is negative", ErrConfig, c.Timeout)
	case c.BannerWait < 0:
		return c, fmt.Errorf("%w: banner wait %s is negative", ErrConfig, c.BannerWait)
	case c.Rate < 0 || c.Rate > maxRate:
		return c, fmt.Errorf("%w: rate %d is not within 1 and %d", ErrConfig, c.Rate, maxRate)
	}
	if c.Count == 0 {
		c.Count = 3
	}
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.BannerWait == 0 {
		c.BannerWait = 1500 * time.Millisecond
	}
	if c.Progress == nil {
		c.Progress = func(int, int) {}
	}
	if c.Stage == nil {
		c.Stage = func(string, int, int) {}
	}
	return c, nil
}

// Probe asks all targets and returns one result for each, in the same order. A server that has answered gets one more SYN, which
// shows whether it uses SYN cookies. It all takes about Timeout and the time that Rate allows, and with Connect about BannerWait more. All its sockets belong to the network namespace of the calling thread.
//
// A target that cannot be reached is a result, not an error. The error is not nil only when nothing could be asked at all: it
// is [ErrConfig] for bad values, [os.ErrNotExist] for an unknown interface, [os.ErrPermission] without CAP_NET_RAW, and ctx's error
// when that ends first.
func Probe(ctx context.Context, cfg Config, targets []Target) ([]Result, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	r := &run{
		cfg: cfg, total: len(targets), rounds: cfg.Count + 1, byAddr: make(map[netip.AddrPort]int, len(targets)),
		ways: map[path]*way{}, sockets: map[string]*rawSocket{}, answers: map[shape]*answer{}, begin: time.Now(),
	}
	defer r.close()
	if r.router, err = newRouter(cfg); err != nil {
		return nil, err
	}
	order := make([]int, len(targets))
	for i, target := range targets {
		if order[i], err = r.plan(i, target); err != nil {
			return nil, err
		}
	}
	if err := r.lookUpAll(); err != nil {
		return nil, err
	}
	for i := range r.all {
		if r.all[i].way == nil {
			r.settled += r.rounds
			r.finish(&r.all[i])
		}
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	if cfg.Rate == 0 {
		r.cfg.Rate = defaultRate(r.asking * r.rounds)
	}
	r.pacer.interval = time.Second / time.Duration(r.cfg.Rate)
	r.pacer.next = r.now()
	overflows := neighbourOverflows()
	if err := r.ask(ctx); err != nil {
		return nil, err
	}
	r.overflowed = neighbourOverflows() != overflows
	r.results = make([]Result, len(targets))
	r.conclude()
	if cfg.Connect {
		if err := r.connect(ctx); err != nil {
			return nil, err
		}
	}
	for i, target := range targets {
		r.results[i] = r.results[r.all[order[i]].first]
		r.results[i].name(target)
	}
	return r.results, nil
}

// asked is one address and port, however many targets name it.
type asked struct {
	addr    netip.AddrPort // with the zone as a number
	way     *way           // nil if this machine has none
	refusal string         // why not, in the words of [Result.Reason]
	first   int            // index of the first target that names it
	weight  int            // targets that name it
	open    int            // samples that are neither answered nor given up
	repeats int            // which sample is repeated, if one is
	usable  bool           // whether a SYN+ACK came
	cookies bool           // what the repetition showed
	// finished is set once the targets that name it have been reported as done.
	finished bool
}

// name makes r the result of one of the targets that share it.
func (r *Result) name(target Target) {
	r.Target = target.Name
	if r.Target == "" {
		r.Target = target.Addr.String()
	}
	r.Address = target.Addr.Addr().Unmap().String()
	r.Port = target.Addr.Port()
}

// plan notes a target and returns its index in r.all. An error means that no target can be asked.
func (r *run) plan(index int, target Target) (int, error) {
	addr := target.Addr.Addr().Unmap()
	if !addr.IsValid() || target.Addr.Port() == 0 {
		return 0, fmt.Errorf("%w: target %q has no address or no port", ErrConfig, target.Name)
	}
	key := netip.AddrPortFrom(addr, target.Addr.Port())
	numbered, err := r.router.zoneIndex(addr)
	if err == nil {
		key = netip.AddrPortFrom(numbered, key.Port())
	}
	if known, ok := r.byAddr[key]; ok {
		r.all[known].weight++
		return known, nil
	}
	a := asked{addr: key, first: index, weight: 1}
	if err != nil {
		a.refusal = localReason(err)
	}
	r.byAddr[key] = len(r.all)
	r.all = append(r.all, a)
	return len(r.all) - 1, nil
}

// lookUpAll finds the ways to all targets, or why this machine has none. An error means that no target can be asked.
func (r *run) lookUpAll() error {
	for first := 0; first < len(r.all); first += maxLookups {
		some := r.all[first:min(first+maxLookups, len(r.all))]
		addrs := make([]netip.Addr, len(some))
		for i, a := range some {
			addrs[i] = a.addr.Addr()
		}
		local := r.router.local(addrs)
		for i := range some {
			a := &some[i]
			if a.refusal != "" {
				continue
			}
			var err error
			a.way, err = r.lookUp(a.addr, local[i])
			if source := (*sourceError)(nil); errors.As(err, &source) {
				return fmt.Errorf("%w: %w", ErrConfig, err)
			}
			if err != nil {
				a.refusal = localReason(err)
				continue
			}
			a.open = r.cfg.Count
			r.asking++
		}
	}
	return nil
}

// errOtherFamily means that Config.Source cannot be the source of packets to a target.
var errOtherFamily = errors.New("source address of the other family")

func (r *run) lookUp(dst netip.AddrPort, local bool) (*way, error) {
	if source := r.router.source; source.IsValid() && source.Is4() != dst.Addr().Is4() {
		return nil, errOtherFamily
	}
	p, err := r.router.path(dst, local)
	if err != nil {
		return nil, err
	}
	w, ok := r.ways[p]
	if !ok {
		mss := min(max(p.mtu-headers(familyName(p.source)), 536), 0xffff)
		w = &way{path: p, control: controlFor(p.source, p.oif), mss: uint16(mss)}
		r.ways[p] = w
	}
	return w, nil
}

// localReason says in [Result.Reason]'s words why this machine itself did not send.
func localReason(err error) string {
	for _, known := range []struct {
		err    error
		reason string
	}{
		{errOtherFamily, "source-of-other-family"},
		{errNoZone, "no-zone"},
		{unix.ENETUNREACH, "local-no-route"},
		{unix.EHOSTUNREACH, "local-host-unreachable"}, // a route of type unreachable
		{unix.EACCES, "local-prohibited"},             // a route of type prohibit, or a broadcast address
		{unix.EINVAL, "local-blackhole"},              // a route of type blackhole
		{unix.EPERM, "local-firewall"},                // dropped in OUTPUT
		{unix.EADDRNOTAVAIL, "local-no-source"},
		{unix.EAFNOSUPPORT, "local-no-ipv6"},
	} {
		if errors.Is(err, known.err) {
			return known.reason
		}
	}
	return "local-error"
}
