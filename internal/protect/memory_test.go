package protect

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/cache"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// TestMemoryCompletes: who speaks first is kept where one probe could not find it, and forgotten if the server is
// another now.
func TestMemoryCompletes(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.1:80")
	asked := probe.Config{Connect: true}
	answer := func(wscale uint8, speaks *probe.Speaks) probe.Result {
		return probe.Result{Verdict: probe.Direct, Options: probe.Options{WScale: &wscale, Timestamps: true}, Speaks: speaks}
	}
	client, server := probe.Client, probe.Server
	for _, c := range []struct {
		name   string
		before probe.Result
		now    probe.Result
		cfg    probe.Config
		want   cache.Who
	}{
		{"found before", answer(7, &client), answer(7, nil), asked, cache.Client},
		{"found now", answer(7, &client), answer(7, &server), asked, cache.Server},
		{"another server", answer(7, &client), answer(8, nil), asked, cache.Nobody},
		{"never found", answer(7, nil), answer(7, nil), asked, cache.Nobody},
		{"not asked", answer(7, &client), answer(7, nil), probe.Config{}, cache.NotAsked},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &Memory{dir: cache.Dir(t.TempDir()), namespace: "test", now: time.Now()}
			m.learn(asked, &Service{ProbeAt: at}, c.before)
			if found := m.Save(t.Context()); found != nil {
				t.Fatal(found)
			}
			m.complete(c.cfg, at, &c.now)
			m.learn(c.cfg, &Service{ProbeAt: at}, c.now)
			if got, _ := m.learned.Get(m.key(c.cfg, at)); got.Speaks != c.want {
				t.Errorf("%q speaks first, not %q", got.Speaks, c.want)
			}
		})
	}
}
