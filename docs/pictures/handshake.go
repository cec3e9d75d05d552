package main

import "fmt"

// The lifelines.
const (
	client = 120.0
	proxy  = 480.0
	server = 840.0
)

// handshake is the way of a connection from the first SYN to its data.
func handshake() *picture {
	p := newPicture(960, 872, "The handshake through SYNPROXY, from the client's SYN to the data")
	const top, bottom = 64.0, 848.0
	for _, x := range []float64{client, proxy, server} {
		p.path(fmt.Sprintf("M%g %g V%g", x, top, bottom), muted, true, false)
	}
	p.box(client-80, 24, 160, 40, plain, false, 13, "client")
	p.box(proxy-110, 24, 220, 40, ours, false, 13, "firewall with SYNPROXY")
	p.box(server-80, 24, 160, 40, plain, false, 13, "server")

	p.arrow(client, proxy, 110, plain, false, "SYN", "seq C, and the client's options")
	p.note(142, ours, "nothing is stored; the answer is computed")
	p.arrow(proxy, client, 212, ours, false, "SYN+ACK, window 0 (we make it 1)", "seq P is the cookie; the server's mss and wscale;", "TSval carries the client's wscale and SACK")
	p.arrow(client, proxy, 290, plain, false, "ACK", "ack P+1, TSecr: both parts of the cookie")
	p.note(322, ours, "is it a cookie of ours, and fresh?")
	p.fork(374, "if not: dropped; a flood ends here")
	p.arrow(proxy, server, 430, ours, false, "SYN", "from the client's address, seq C: the first packet", "that leaves an entry in connection tracking")
	p.arrow(server, proxy, 508, plain, false, "SYN+ACK, window W", "seq S, and the server's own TSval")
	p.note(540, kernel, "now both differences are known:", "P - S for sequence numbers, one for time")
	p.arrow(proxy, client, 626, ours, false, "ACK, window W", "opens the window: the client may send")
	p.arrow(proxy, server, 626, ours, true, "third ACK", "repaired: dropped, without timestamps,", "or untracked; see below")
	p.note(680, kernel, "data pass through; the kernel translates")
	p.arrow(client, proxy, 750, plain, false, "data", "seq C+n, ack and TSecr as the proxy counts")
	p.arrow(proxy, server, 750, plain, false, "data", "seq C+n, ack and TSecr as the server counts")
	p.arrow(server, proxy, 810, plain, false, "data", "seq and TSval as the server counts")
	p.arrow(proxy, client, 810, plain, false, "data", "seq and TSval as the proxy counts")
	return p
}

// arrow draws a segment with its name above the line and details below it.
func (p *picture) arrow(from, to, y float64, t tone, dashed bool, name string, details ...string) {
	const gap = 4
	end := to - gap
	if to < from {
		end = to + gap
	}
	p.path(fmt.Sprintf("M%g %g H%g", from, y, end), t, dashed, true)
	middle := (from + to) / 2
	p.text(middle, y-7, style{12.5, true, "middle", t.text}, name)
	for i, d := range details {
		p.text(middle, y+16+15*float64(i), style{11, false, "middle", muted.text}, d)
	}
}

// note draws what happens at the proxy.
func (p *picture) note(y float64, t tone, lines ...string) {
	const width = 290
	p.box(proxy-width/2, y, width, 14+16*float64(len(lines)), t, false, 11.5, lines...)
}

// fork draws the end of what is not good.
func (p *picture) fork(y float64, why string) {
	p.path(fmt.Sprintf("M%g %g H%g", proxy, y, proxy+46), stop, false, true)
	p.text(proxy+54, y+4, style{11.5, false, "start", stop.text}, why)
}
