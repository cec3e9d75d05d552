package watch

import (
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// traits are what the rules take from a backend's answer, to be compared.
type traits struct {
	mss, wscale      int // -1: not sent
	sack, timestamps bool
	cookies          bool
}

func traitsOf(o rules.Options, cookies bool) traits {
	t := traits{-1, -1, o.SACKPerm, o.Timestamps, cookies}
	if o.MSS != nil {
		t.mss = int(*o.MSS)
	}
	if o.WScale != nil {
		t.wscale = int(*o.WScale)
	}
	return t
}

func (t traits) options() rules.Options {
	o := rules.Options{SACKPerm: t.sack, Timestamps: t.timestamps}
	if t.mss >= 0 {
		mss := uint16(t.mss)
		o.MSS = &mss
	}
	if t.wscale >= 0 {
		wscale := uint8(t.wscale)
		o.WScale = &wscale
	}
	return o
}

// common is what may be announced for a backend that is the one or the other.
func common(f rules.Family, a, b traits) traits {
	o := probe.Common(f == rules.IPv6, probe.Options(a.options()), probe.Options(b.options()))
	return traitsOf(rules.Options(o), a.cookies || b.cookies)
}

// String tells them as iptables would.
func (t traits) String() string {
	text := probe.Options(t.options()).IPTables()
	if t.cookies {
		text += " (SYN cookies)"
	}
	return text
}

func answered(a *protect.Answer) traits { return traitsOf(a.Options, a.SynCookies) }

func announced(s *protect.Service) traits { return traitsOf(s.Options, s.SynCookies) }
