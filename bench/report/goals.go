package report

import (
	"fmt"
	"math"
)

// goal is one of the figures that the product wants to reach.
type goal struct {
	text  string
	want  string
	value func(r *Results, backend, program string) float64 // NaN: not measured
	limit float64
	least bool // the limit is the least, not the most
	unit  string
}

// goals are all of them.
func goals() []goal {
	median := func(r *Results, figure, contender string, size int) float64 {
		return Summarise(r.Find(figure, contender, size)).Median
	}
	faster := func(r *Results, figure, slow, fast string, size int) float64 {
		return Ratio(r.Find(figure, slow, size), r.Find(figure, fast, size)).Median
	}
	applied := func(operation, property string, size int) func(*Results, string, string) float64 {
		return func(r *Results, backend, _ string) float64 {
			return median(r, Operation(operation, property), Tool+backend, size)
		}
	}
	return []goal{
		{"SYN/s for 1 service, over the stock recipe by the same program", "at least 1.15 x", func(r *Results, backend, program string) float64 {
			return faster(r, Rate, Tool+backend, StockPrefix+program, 1)
		}, 1.15, true, " x"},
		{"SYN/s for 1,000 services, over FireHOL", "at least 25 x", func(r *Results, backend, _ string) float64 {
			return faster(r, Rate, Tool+backend, FireHOL, 1_000)
		}, 25, true, " x"},
		{"loss of SYN/s from 1 to 100,000 services", "at most 15 %", func(r *Results, backend, _ string) float64 {
			return 100 * (1 - Ratio(r.Find(Rate, Tool+backend, 100_000), r.Find(Rate, Tool+backend, 1)).Median)
		}, 15, false, " %"},
		{"good connections that succeed under flood, worst case", "100 %", func(r *Results, backend, _ string) float64 {
			return 100 * r.worst(Success, Tool+backend, func(s Summary) float64 { return s.Min }, math.Min)
		}, 100, true, " %"},
		{"p99 of good connections under flood, worst case", "at most 10 ms", func(r *Results, backend, _ string) float64 {
			return r.worst(P99, Tool+backend, func(s Summary) float64 { return s.Median }, math.Max)
		}, 10, false, " ms"},
		{"apply of 1,000 services, over FireHOL", "at least 100 x", func(r *Results, backend, _ string) float64 {
			return faster(r, Operation("apply", Wall), FireHOL, Tool+backend, 1_000)
		}, 100, true, " x"},
		{"apply of 10,000 services", "at most 0.6 s", applied("apply", Wall, 10_000), 0.6, false, " s"},
		{"apply of 100,000 services", "at most 5 s", applied("apply", Wall, 100_000), 5, false, " s"},
		{"peak memory, worst operation and size", "at most 200 MB", func(r *Results, backend, _ string) float64 {
			return r.worstMemory(Tool + backend)
		}, 200, false, " MB"},
		{"no-op apply of 10,000 services", "at most 0.25 s", applied("apply again", Wall, 10_000), 0.25, false, " s"},
		{"one service more than 10,000, beyond a no-op", "at most 50 ms", func(r *Results, backend, _ string) float64 {
			change, again := r.Find(Operation("one more", Wall), Tool+backend, 10_000), r.Find(Operation("apply again", Wall), Tool+backend, 10_000)
			more := make([]float64, 0, len(change))
			for i := range min(len(change), len(again)) {
				more = append(more, 1e3*(change[i]-again[i]))
			}
			return Summarise(more).Median
		}, 50, false, " ms"},
		{"probe of 10,000 targets", "at most 5 s", func(r *Results, _, _ string) float64 {
			return median(r, Probe, ToolProbe, 10_000)
		}, 5, false, " s"},
		{"probe of 10,000 targets, over nmap -sS", "at least 10 x", func(r *Results, _, _ string) float64 {
			return faster(r, Probe, Nmap, ToolProbe, 10_000)
		}, 10, true, " x"},
		{"throughput at 40 ms RTT, over direct, worse direction", "at least 97 %", func(r *Results, backend, _ string) float64 {
			return 100 * math.Min(faster(r, Upload, Tool+backend, None, 1), faster(r, Download, Tool+backend, None, 1))
		}, 97, true, " %"},
	}
}

// worst is the worst value of a property of good connections, over all sizes and both kinds of server, or NaN.
func (r *Results) worst(property, contender string, pick func(Summary) float64, worse func(a, b float64) float64) float64 {
	value := math.NaN()
	for _, speaker := range Speakers {
		for _, size := range r.Sizes(Good(speaker, property)) {
			one := pick(Summarise(r.Find(Good(speaker, property), contender, size)))
			if math.IsNaN(one) {
				return one // a kind that was not measured hides nothing
			}
			if math.IsNaN(value) {
				value = one
			}
			value = worse(value, one)
		}
	}
	return value
}

// worstMemory is the most that an operation took, at any size, or NaN if the largest size is missing.
func (r *Results) worstMemory(contender string) float64 {
	most := math.NaN()
	if r.Find(Operation("apply", Memory), contender, 100_000) == nil {
		return most
	}
	for _, s := range r.Series {
		for _, operation := range Operations {
			if s.Contender == contender && s.Figure == Operation(operation, Memory) {
				if one := Summarise(s.Values).Max; math.IsNaN(most) || one > most {
					most = one
				}
			}
		}
	}
	return most
}

// Verdict is what became of a goal: a cell for each of [Backends], such as "1.31 x: reached".
type Verdict struct {
	Goal, Want string
	Cells      []string
}

// Verdicts judges all goals.
func (r *Results) Verdicts() []Verdict {
	var all []Verdict
	for _, g := range goals() {
		v := Verdict{Goal: g.text, Want: g.want}
		for _, b := range Backends {
			v.Cells = append(v.Cells, g.judge(g.value(r, b.Name, b.Program)))
		}
		all = append(all, v)
	}
	return all
}

func (g goal) judge(value float64) string {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return "not measured"
	}
	if reached := value <= g.limit && !g.least || value >= g.limit && g.least; !reached {
		return fmt.Sprintf("%s%s: **not reached**", Number(value), g.unit)
	}
	return fmt.Sprintf("%s%s: reached", Number(value), g.unit)
}
