package main

import "fmt"

// A cell is what a packet meets in one column; the zero value is a chain that it passes.
type cell struct {
	lines  []string
	tone   tone
	dashed bool // iptables alone
	absent bool // the packet does not come by here
	last   bool // the packet ends here
}

// row is the way of one packet. The columns are raw, conntrack, mangle, nat and
// filter of PREROUTING or OUTPUT; mangle, filter, security of FORWARD or INPUT,
// and what the kernel does behind those of INPUT; POSTROUTING.
type row struct {
	number, name, from string
	sent               bool // by OUTPUT, in place of PREROUTING
	cells              [10]cell
	end                string
}

func does(lines ...string) cell   { return cell{lines: lines, tone: ours} }
func onlyXT(lines ...string) cell { return cell{lines: lines, tone: ours, dashed: true} }
func kern(lines ...string) cell   { return cell{lines: lines, tone: kernel} }
func theirs(lines ...string) cell { return cell{lines: lines, tone: host} }

func (c cell) ends() cell {
	c.last = true
	return c
}

var not = cell{absent: true}

// What is the same at both places.
var (
	synack = row{"2", "SYN+ACK", "from the proxy", true, [10]cell{
		0: does("not tracked", "(notrack)"), 2: does("window 0", "becomes 1"), 4: onlyXT("accept"), 5: not, 6: not, 7: not, 8: not,
	}, "to the client"}
	cookie = row{"3", "ACK, cookie", "from a client", false, [10]cell{
		1: kern("INVALID"), 4: not, 5: does("SYNPROXY", "judges,", "rest: drop").ends(),
	}, "packet 4, or nothing"}
)

func answered(lists string) row {
	return row{"1", "SYN", "client or flood", false, [10]cell{
		0: does("not tracked", "(notrack)"), 1: kern("NEW, or", "untracked"), 4: not, 6: theirs(lists, "decides"), 7: does("SYNPROXY", "answers").ends(),
	}, "packet 2"}
}

func toServer(end string) row {
	return row{"4", "SYN", "from the proxy", true, [10]cell{
		1: kern("NEW"), 3: does("DNAT", "(with --to)"), 4: onlyXT("accept"), 5: not, 6: not, 7: not, 8: not, 9: kern("SYNPROXY", "notes P"),
	}, end}
}

func third(end string) row {
	return row{"6", "third ACK", "from the proxy", true, [10]cell{
		0: does("not tracked", "(cookies)"), 2: does("dropped, or", "without", "timestamps"), 4: onlyXT("accept"), 5: not, 6: not, 7: not, 8: not,
	}, end}
}

// routed is the way through a host in front of the server.
func routed() *picture {
	return paths("The packets of a connection to a server behind this host, and where rules meet them", "FORWARD", []row{
		answered("FORWARD"), synack, cookie, toServer("to the server"),
		{"5", "SYN+ACK", "from the server", false, [10]cell{1: kern("ESTABLISHED"), 4: not, 8: not, 9: kern("SYNPROXY", "takes it").ends()}, "6; ACK to the client"},
		third("to the server, if any"),
		{"7", "all the rest", "both ways", false, [10]cell{1: kern("ESTABLISHED"), 4: not, 8: not, 9: kern("seq, ack,", "time", "translated")}, "client or server"},
	})
}

// local is the way to a server on the host itself.
func local() *picture {
	return paths("The packets of a connection to a server on this host, and where rules meet them", "INPUT", []row{
		answered("INPUT"), synack, cookie, toServer("to lo"),
		{"", "the same", "comes in by lo", false, [10]cell{1: kern("NEW"), 4: not, 6: onlyXT("accept"), 9: not}, "to the server"},
		{"5", "SYN+ACK", "from the server", true, [10]cell{1: kern("ESTABLISHED"), 5: not, 6: not, 7: not, 8: not, 9: kern("SYNPROXY", "takes it").ends()}, "6; ACK to the client"},
		third("to lo, if any"),
		{"7", "data", "from the client", false, [10]cell{1: kern("ESTABLISHED"), 4: not, 8: kern("ack, TSecr", "translated"), 9: not}, "to the server"},
		{"", "data", "from the server", true, [10]cell{1: kern("ESTABLISHED"), 5: not, 6: not, 7: not, 8: not, 9: kern("seq, TSval", "translated")}, "to the client"},
	})
}

// The measures of the table.
const (
	pathLeft = 152.0
	cellWide = 86.0
	cellHigh = 48.0
	cellStep = 92.0
	groupGap = 14.0
	rowHigh  = 64.0
	pathTop  = 100.0
	endWide  = 182.0
)

// table places the columns. Without an end of the middle hook, there is no room for it.
type table struct {
	*picture
	short bool
}

func (t table) column(i int) float64 {
	x := pathLeft + cellStep*float64(i)
	if i >= 5 {
		x += groupGap
	}
	if i >= 9 {
		x += groupGap
		if t.short {
			x -= cellStep
		}
	}
	return x
}

func paths(title, middle string, rows []row) *picture {
	t := table{short: middle == "FORWARD"}
	end := pathTop + rowHigh*float64(len(rows))
	t.picture = newPicture(t.column(9)+cellWide+endWide, end+64, title)
	names := []string{"raw", "(conntrack)", "mangle", "nat", "filter", "mangle", "filter", "security", "(kernel)", "(kernel)"}
	priorities := []string{"-300", "-200", "-150", "-100", "0, OUTPUT", "-150", "0", "50; nft: 200", "last", "last"}
	last := 8
	if t.short {
		last = 7
	}
	for _, g := range []struct {
		from, to int
		name     string
	}{{0, 4, "PREROUTING of what comes in, OUTPUT of what is sent"}, {5, last, middle}, {9, 9, "POSTROUTING"}} {
		x, right := t.column(g.from)-6, t.column(g.to)+cellWide+6
		fmt.Fprintf(&t.body, `<rect x="%g" y="20" width="%g" height="%g" rx="6" fill="#fbfcfd" stroke="#e4e8ec"/>`+"\n", x, right-x, end-16)
		t.boxes = append(t.boxes, label{g.name, x, 20, right, end + 4})
		t.text((x+right)/2, 42, style{11, true, "middle", plain.text}, g.name)
		for i := g.from; i <= g.to; i++ {
			t.text(t.column(i)+cellWide/2, 66, style{12, false, "middle", muted.text}, names[i])
			t.text(t.column(i)+cellWide/2, 82, style{11, false, "middle", muted.text}, priorities[i])
		}
	}
	for i, r := range rows {
		t.way(pathTop+rowHigh*float64(i), r)
	}
	t.legend(end + 36)
	return t.picture
}

func (t table) legend(y float64) {
	x := pathLeft
	for _, l := range []struct {
		t      tone
		dashed bool
		text   string
	}{
		{ours, false, "a rule of ours"},
		{ours, true, "of ours, with iptables only"},
		{kernel, false, "the kernel itself"},
		{host, false, "rules of others, if any"},
	} {
		t.box(x, y-12, 26, 18, l.t, l.dashed, 11)
		t.text(x+34, y+1, style{11.5, false, "start", plain.text}, l.text)
		x += 76 + 7*float64(len(l.text))
	}
}

// way draws one packet from the left to where it ends.
func (t table) way(top float64, r row) {
	y := top + rowHigh/2
	t.text(20, y-3, style{13, true, "start", ours.text}, r.number)
	t.text(38, y-3, style{12, true, "start", plain.text}, r.name)
	t.text(38, y+13, style{11, false, "start", muted.text}, r.from)
	last, ends := 9, false
	for i, c := range r.cells {
		if c.last {
			last, ends = i, true
		}
	}
	at := t.column(last) + cellWide + 26
	if ends {
		t.path(fmt.Sprintf("M%g %g H%g", pathLeft-6, y, t.column(last)), muted, false, false)
		t.path(fmt.Sprintf("M%g %g H%g", t.column(last)+cellWide, y, at-6), ours, true, true)
	} else {
		t.path(fmt.Sprintf("M%g %g H%g", pathLeft-6, y, at-6), muted, false, true)
	}
	// What the packet meets lies on its line.
	for i, c := range r.cells[:last+1] {
		switch x := t.column(i); {
		case c.absent, t.short && i == 8:
		case c.lines == nil:
			t.dot(x+cellWide/2, y, host)
		default:
			t.box(x, y-cellHigh/2, cellWide, cellHigh, c.tone, c.dashed, 11, c.lines...)
		}
	}
	t.text(at, y+4, style{11.5, false, "start", plain.text}, r.end)
}
