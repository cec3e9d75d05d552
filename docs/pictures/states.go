package main

import "fmt"

// states are those of a network namespace, and what leads from one to another.
func states() *picture {
	p := newPicture(1120, 388, "The states of a namespace: absent, warm-up, active, draining")
	const top, high, wide, step = 130.0, 108.0, 190.0, 280.0
	at := func(i int) float64 { return 45 + step*float64(i) }
	middle := func(i int) float64 { return at(i) + wide/2 }
	for i, s := range []struct {
		t     tone
		name  string
		lines []string
	}{
		{plain, "absent", []string{"nothing of ours is here"}},
		{kernel, "warm-up", []string{"the anchor alone;", "conntrack watches"}},
		{ours, "active", []string{"all rules; loose is 0;", "SYNs are answered"}},
		{host, "draining", []string{"the anchor alone;", "settings given back;", "old connections live"}},
	} {
		p.box(at(i), top, wide, high, s.t, false, 11)
		p.text(middle(i), top+30, style{14, true, "middle", s.t.text}, s.name)
		for j, l := range s.lines {
			p.text(middle(i), top+52+17*float64(j), style{11, false, "middle", s.t.text}, l)
		}
	}
	say := func(x, y float64, bold bool, text string) {
		s := style{11.5, bold, "middle", muted.text}
		if bold {
			s.colour = ours.text
		}
		p.text(x, y, s, text)
	}
	between := func(i int) float64 { return (at(i) + wide + at(i+1)) / 2 }
	level := top + 36
	for i, name := range []string{"apply", "1 to 10 s", "revert"} {
		p.path(fmt.Sprintf("M%g %g H%g", at(i)+wide, level, at(i+1)-3), plain, false, true)
		say(between(i), level-8, i != 1, name)
	}
	// Where conntrack was watching there is nothing to wait for.
	p.path(fmt.Sprintf("M%g %g V64 H%g V%g", middle(0), top, middle(2)-30, top-3), plain, false, true)
	say(middle(1), 56, true, "apply")
	say(middle(1), 82, false, "conntrack was watching already")
	p.path(fmt.Sprintf("M%g %g V64 H%g V%g", middle(2)+10, top, middle(2)+70, top-3), plain, false, true)
	say(middle(2)+40, 56, true, "apply: a change")
	// Back.
	p.path(fmt.Sprintf("M%g %g H%g", at(3), top+80, at(2)+wide+3), plain, false, true)
	say(between(2), top+72, true, "apply")
	p.path(fmt.Sprintf("M%g %g H%g", at(1), top+80, at(0)+wide+3), stop, false, true)
	say(between(0), top+72, false, "fails")
	p.path(fmt.Sprintf("M%g %g V304 H%g V%g", middle(3), top+high, middle(0), top+high+3), plain, false, true)
	say((middle(0)+middle(3))/2, 296, false, "the last proxied connection has ended, or revert --now")
	say((middle(0)+middle(3))/2, 352, false, "killed in any state: traffic flows, and the next apply or revert leads on")
	return p
}
