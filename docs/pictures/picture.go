package main

import (
	"fmt"
	"html"
	"strings"
)

// picture collects elements of SVG. It has a background of its own, so that it
// is as legible on a dark page as on a light one.
type picture struct {
	width, height float64
	title         string
	body          strings.Builder
	texts, boxes  []label // what was drawn where, for the test
}

// label is a text with the room that it needs at most, or a rectangle.
type label struct {
	text                     string
	left, top, right, bottom float64
}

func newPicture(width, height float64, title string) *picture {
	return &picture{width: width, height: height, title: title}
}

// A tone is the meaning of a colour: who made what is drawn in it.
type tone struct{ fill, line, text string }

var (
	plain  = tone{"#ffffff", "#8c959f", "#1f2328"}
	ours   = tone{"#ddf4ff", "#0969da", "#0a3069"}
	kernel = tone{"#fff8c5", "#bf8700", "#4d2d00"}
	host   = tone{"#f6f8fa", "#afb8c1", "#424a53"}
	muted  = tone{"#ffffff", "#afb8c1", "#57606a"}
	stop   = tone{"#ffebe9", "#cf222e", "#82071e"}
)

// style is how a text looks.
type style struct {
	size   float64
	bold   bool
	anchor string // start, middle or end
	colour string
}

// widest is what a character of the widest usual fonts needs, as a part of the
// size; bold ones need more.
const widest, widestBold = 0.605, 0.68

func (p *picture) text(x, y float64, s style, text string) {
	if text == "" {
		return
	}
	weight, per := "", widest
	if s.bold {
		weight, per = ` font-weight="bold"`, widestBold
	}
	width := float64(len([]rune(text))) * s.size * per
	left := x
	switch s.anchor {
	case "middle":
		left = x - width/2
	case "end":
		left = x - width
	}
	p.texts = append(p.texts, label{text, left, y - 0.8*s.size, left + width, y + 0.25*s.size})
	fmt.Fprintf(&p.body, `<text x="%g" y="%g" font-size="%g" text-anchor="%s" fill="%s"%s>%s</text>`+"\n",
		x, y, s.size, s.anchor, s.colour, weight, html.EscapeString(text))
}

// box draws a rectangle with lines of text in its middle.
func (p *picture) box(x, y, w, h float64, t tone, dashed bool, size float64, lines ...string) {
	p.boxes = append(p.boxes, label{strings.Join(lines, " "), x, y, x + w, y + h})
	dash := ""
	if dashed {
		dash = ` stroke-dasharray="4 3"`
	}
	fmt.Fprintf(&p.body, `<rect x="%g" y="%g" width="%g" height="%g" rx="5" fill="%s" stroke="%s"%s/>`+"\n", x, y, w, h, t.fill, t.line, dash)
	step := size * 1.3
	first := y + h/2 - step*float64(len(lines)-1)/2 + 0.35*size
	for i, line := range lines {
		p.text(x+w/2, first+step*float64(i), style{size, false, "middle", t.text}, line)
	}
}

// path draws a line through points, given as SVG writes them.
func (p *picture) path(d string, t tone, dashed, arrow bool) {
	more := ""
	if dashed {
		more = ` stroke-dasharray="5 4"`
	}
	if arrow {
		more += ` marker-end="url(#` + markers[t.line] + `)"`
	}
	fmt.Fprintf(&p.body, `<path d="%s" fill="none" stroke="%s" stroke-width="1.5"%s/>`+"\n", d, t.line, more)
}

func (p *picture) dot(x, y float64, t tone) {
	fmt.Fprintf(&p.body, `<circle cx="%g" cy="%g" r="3" fill="%s" stroke="%s"/>`+"\n", x, y, t.fill, t.line)
}

// markers are the names of the heads of arrows, by their colour.
var markers = map[string]string{plain.line: "plain", ours.line: "ours", stop.line: "stop", muted.line: "muted", kernel.line: "kernel"}

func (p *picture) svg() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" `+
		`font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif">`+"\n", p.width, p.height, p.width, p.height)
	fmt.Fprintf(&b, "<!-- drawn by docs/pictures: make pictures -->\n<title>%s</title>\n<defs>\n", html.EscapeString(p.title))
	for _, t := range []tone{plain, ours, kernel, muted, stop} {
		fmt.Fprintf(&b, `<marker id="%s" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 1 L10 5 L0 9 Z" fill="%s"/></marker>`+"\n",
			markers[t.line], t.line)
	}
	fmt.Fprintf(&b, "</defs>\n"+`<rect x="0.5" y="0.5" width="%g" height="%g" rx="8" fill="#ffffff" stroke="#d0d7de"/>`+"\n", p.width-1, p.height-1)
	b.WriteString(p.body.String())
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
