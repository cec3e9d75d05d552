package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Line is one contender in a [Plot].
type Line struct {
	Name   string
	Points []Point
}

// Point is a summary at a size.
type Point struct {
	Size int
	Summary
}

// Plot is a figure over the size, both on logarithmic scales, with whiskers from the least to the greatest value.
type Plot struct {
	Title, X, Y string
	Lines       []Line
}

// NewPlot makes the plot of a figure, with one line for each contender that was measured.
func (r *Results) NewPlot(figure, title, x string) Plot {
	p := Plot{Title: title, X: x, Y: figure}
	for _, contender := range r.Contenders(figure) {
		l := Line{Name: contender}
		for _, size := range r.Sizes(figure) {
			if values := r.Find(figure, contender, size); len(values) > 0 {
				l.Points = append(l.Points, Point{size, Summarise(values)})
			}
		}
		p.Lines = append(p.Lines, l)
	}
	return p
}

// The measures of a plot, in pixels.
const (
	plotWidth, plotHeight = 860, 420
	plotLeft, plotRight   = 80, 620
	plotTop, plotBottom   = 50, 360
)

// colours can be told apart by most of those who do not see all colours (Okabe and Ito), and by their order.
var colours = []string{"#000000", "#e69f00", "#56b4e9", "#cc79a7", "#d55e00", "#0072b2", "#009e73", "#7f7f7f"}

// SVG draws the plot. A plot without points is an empty frame.
func (p Plot) SVG() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", plotWidth, plotHeight)
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
	}
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15" font-weight="bold">%s</text>`+"\n", plotLeft, html.EscapeString(p.Title))
	text((plotLeft+plotRight)/2, plotHeight-14, "middle", p.X)
	text(plotLeft, plotTop-10, "middle", p.Y)

	x, y := p.scales()
	for _, v := range x.ticks() {
		at := x.at(v)
		fmt.Fprintf(&b, `<path d="M%.1f %d V%d" stroke="#dddddd"/>`+"\n", at, plotTop, plotBottom)
		text(at, plotBottom+18, "middle", Number(v))
	}
	for _, v := range y.ticks() {
		at := y.at(v)
		fmt.Fprintf(&b, `<path d="M%d %.1f H%d" stroke="#dddddd"/>`+"\n", plotLeft, at, plotRight)
		text(plotLeft-8, at+4, "end", Number(v))
	}
	for i, l := range p.Lines {
		colour := colours[i%len(colours)]
		fmt.Fprintf(&b, `<g stroke="%s" fill="none" stroke-width="1.6">`+"\n", colour)
		var path strings.Builder
		for j, pt := range l.Points {
			px := x.at(float64(pt.Size))
			fmt.Fprintf(&path, "%c%.1f %.1f ", "ML"[min(j, 1)], px, y.at(pt.Median))
			fmt.Fprintf(&b, `<path d="M%.1f %.1f V%.1f"/><circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n",
				px, y.at(pt.Min), y.at(pt.Max), px, y.at(pt.Median), colour)
		}
		if len(l.Points) > 1 {
			fmt.Fprintf(&b, `<path d="%s"/>`+"\n", strings.TrimSpace(path.String()))
		}
		at := float64(plotTop + 10 + 20*i)
		fmt.Fprintf(&b, `<path d="M%d %.0f H%d"/>`+"\n</g>\n", plotRight+16, at, plotRight+40)
		text(plotRight+48, at+4, "start", l.Name)
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// scale is a logarithmic one, whose ends are powers of ten.
type scale struct {
	low, high int // exponents
	from, to  float64
}

// scales fit all points. Values that are not positive have no place on them, and lie at the low end.
func (p Plot) scales() (x, y scale) {
	var sizes, values []float64
	for _, l := range p.Lines {
		for _, pt := range l.Points {
			sizes = append(sizes, float64(pt.Size))
			values = append(values, pt.Min, pt.Max)
		}
	}
	return newScale(sizes, plotLeft, plotRight), newScale(values, plotBottom, plotTop)
}

func newScale(values []float64, from, to float64) scale {
	s := scale{low: math.MaxInt, high: math.MinInt, from: from, to: to}
	for _, v := range values {
		if v > 0 {
			s.low, s.high = min(s.low, int(math.Floor(math.Log10(v)))), max(s.high, int(math.Ceil(math.Log10(v))))
		}
	}
	if s.low > s.high {
		s.low, s.high = 0, 1
	}
	if s.low == s.high {
		s.high++
	}
	return s
}

func (s scale) at(v float64) float64 {
	position := 0.0
	if v > 0 {
		position = (math.Log10(v) - float64(s.low)) / float64(s.high-s.low)
	}
	return s.from + (s.to-s.from)*min(max(position, 0), 1)
}

func (s scale) ticks() []float64 {
	var all []float64
	for e := s.low; e <= s.high; e++ {
		all = append(all, math.Pow10(e))
	}
	return all
}
