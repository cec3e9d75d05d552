package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Markdown writes the whole document. Plots are linked as files of the directory plots.
func (r *Results) Markdown(plots string) []byte {
	d := document{r: r, plots: plots}
	d.head()
	d.goals()
	d.floods()
	d.good()
	d.operations()
	d.probes()
	d.throughput()
	d.foot()
	return []byte(d.b.String())
}

// Plots are the drawings that the document links, by file name.
func (r *Results) Plots() map[string]Plot {
	return map[string]Plot{
		"syn.svg":       r.NewPlot(Rate, "SYNs that one CPU answers", "services"),
		"unrelated.svg": r.NewPlot(Unrelated, "Price for a packet that no rule is about", "services"),
		"apply.svg":     r.NewPlot(Operation("apply", Wall), "Protecting services", "services"),
		"again.svg":     r.NewPlot(Operation("apply again", Wall), "Applying what is there already", "services"),
		"one-more.svg":  r.NewPlot(Operation("one more", Wall), "One service more", "services"),
		"memory.svg":    r.NewPlot(Operation("apply", Memory), "Peak memory of protecting services", "services"),
		"probe.svg":     r.NewPlot(Probe, "Asking targets for their options", "targets"),
	}
}

type document struct {
	r     *Results
	plots string
	b     strings.Builder
}

func (d *document) say(format string, args ...any) { fmt.Fprintf(&d.b, format+"\n", args...) }

func (d *document) head() {
	m := d.r.Machine
	d.say("# Benchmarks\n")
	d.say("Written by `make bench`; do not edit. All contenders took turns within one run, each in a network of its own, so that")
	d.say("what disturbed one disturbed all. A cell is the median of %s, with the least and the greatest in brackets.", d.repetitions())
	d.say("Compare within a table: the absolute figures are those of one small machine.\n")
	if d.r.Short {
		d.say("**This was a smoke test. Its figures are worth little.**\n")
	}
	d.say("Measured on %s with Linux %s, %d CPUs (%s), %s of memory, commit %s.", d.r.Date, m.Kernel, m.CPUs, m.CPU, m.Memory, m.Commit)
	for _, name := range slices.Sorted(maps.Keys(m.Tools)) {
		d.say("- %s: %s", name, m.Tools[name])
	}
	d.say("")
}

// repetitions says how many values the cells have, but for those of slow contenders, which have one.
func (d *document) repetitions() string {
	least, most := math.MaxInt, 0
	for _, s := range d.r.Series {
		if n := len(s.Values); n > 1 || d.r.Reps == 1 {
			least, most = min(least, n), max(most, n)
		}
	}
	switch {
	case most == 0:
		return "no repetitions"
	case least == most:
		return fmt.Sprintf("%d repetitions", most)
	}
	return fmt.Sprintf("%d to %d repetitions", least, most)
}

func (d *document) goals() {
	d.say("## What was to be reached\n")
	header := []string{"goal", "wanted"}
	for _, b := range Backends {
		header = append(header, b.Name)
	}
	d.row(header...)
	d.rule(len(header))
	for _, v := range d.r.Verdicts() {
		d.row(append([]string{v.Goal, v.Want}, v.Cells...)...)
	}
	d.say("\nRatios are medians of the ratios of each repetition.\n")
}

func (d *document) floods() {
	if len(d.r.Sizes(Rate)) == 0 {
		return
	}
	d.say("## SYN floods\n")
	d.say("A program in the kernel sends SYNs from random sources to all services, as many as it can, on one CPU; another CPU does")
	d.say("all work for them on the firewall and on the server behind it. SYN/s are SYN+ACKs per second of the receiving CPU's time,")
	d.say("which the kernel counts in ticks of 10 ms. Each service is an address with one port. \"stock\" is the recipe of iptables-extensions(8), or its translation, with rules for each service.\n")
	d.plot("syn.svg", "SYN/s over services")
	d.table("### SYN/s", Rate, "services")
	d.table("### ns per SYN", SYNCost, "services")
	d.say("An unrelated packet is of one flow, to an address that is not protected. It passes all rules.\n")
	d.plot("unrelated.svg", "ns per unrelated packet over services")
	d.table("### ns per unrelated packet", Unrelated, "services")
	d.say("The generator must be faster than the receiver, and the receiver busy:\n")
	d.table("### Offered SYN/s", Offered, "services")
	d.table("### Answered SYN/s, by the clock on the wall", Answered, "services")
	d.table("### Receiving CPU's time over that on the wall", Busy, "services")
}

func (d *document) good() {
	for _, speaker := range Speakers {
		if len(d.r.Sizes(Good(speaker, Success))) == 0 {
			continue
		}
		d.say("## Good connections under flood, the %s speaks first\n", speaker)
		d.say("Connections to random services while all are flooded. The time runs from connect to the first useful answer; connections")
		d.say("that failed have none. The firewall's one CPU does the work for the flood and for the good ones. \"%s\" is what the", NoFlood)
		d.say("machine and its other users do to a connection anyway.\n")
		for _, property := range []string{Success, P50, P99, Max, Flood} {
			d.table("### "+strings.ToUpper(property[:1])+property[1:], Good(speaker, property), "services")
		}
	}
}

func (d *document) operations() {
	if len(d.r.Sizes(Operation("apply", Wall))) == 0 {
		return
	}
	d.say("## Protecting services\n")
	d.say("\"apply\" begins with nothing, \"apply again\" changes nothing, \"one more\" adds a service, \"revert\" takes all")
	d.say("away at once. Memory is the peak of the largest process. FireHOL with 100 services and more is so slow that it was measured once.\n")
	for _, name := range []string{"apply", "again", "one-more", "memory"} {
		d.plot(name+".svg", name+" over services")
	}
	for _, operation := range Operations {
		d.table("### "+operation+", seconds", Operation(operation, Wall), "services")
		d.table("### "+operation+", seconds of CPU", Operation(operation, CPU), "services")
		d.table("### "+operation+", MB", Operation(operation, Memory), "services")
	}
}

func (d *document) probes() {
	if len(d.r.Sizes(Probe)) == 0 {
		return
	}
	d.say("## Asking targets\n")
	d.say("All targets answer. nmap and hping3 only learn that a port is open; synproxyctl reads the options too.\n")
	d.plot("probe.svg", "seconds over targets")
	d.table("### Seconds", Probe, "targets")
	d.table("### Seconds of CPU", ProbeCPU, "targets")
	d.table("### MB", ProbeMemory, "targets")
}

func (d *document) throughput() {
	if len(d.r.Sizes(Upload)) == 0 {
		return
	}
	d.say("## Throughput at 40 ms RTT\n")
	d.say("One connection through one protected service, over a relay that delays packets by 20 ms each way.\n")
	d.row("", "upload, MB/s", "of direct", "download, MB/s", "of direct")
	d.rule(5)
	for _, c := range d.r.Contenders(Upload) {
		cells := []string{c}
		for _, figure := range []string{Upload, Download} {
			values := d.r.Find(figure, c, 1)
			cells = append(cells, Summarise(values).String(), Ratio(values, d.r.Find(figure, None, 1)).String())
		}
		d.row(cells...)
	}
	d.say("")
}

func (d *document) foot() {
	if len(d.r.Notes) == 0 {
		return
	}
	d.say("## Remarks\n")
	for _, note := range d.r.Notes {
		d.say("- %s", note)
	}
}

func (d *document) plot(file, alt string) { d.say("![%s](%s/%s)\n", alt, d.plots, file) }

// table writes a figure with a row for each contender and a column for each size.
func (d *document) table(heading, figure, unit string) {
	sizes := d.r.Sizes(figure)
	if len(sizes) == 0 {
		return
	}
	d.say("%s\n", heading)
	header := []string{unit}
	for _, size := range sizes {
		header = append(header, Thousands(int64(size)))
	}
	d.row(header...)
	d.rule(len(header))
	for _, contender := range d.r.Contenders(figure) {
		cells := []string{contender}
		for _, size := range sizes {
			cells = append(cells, Summarise(d.r.Find(figure, contender, size)).String())
		}
		d.row(cells...)
	}
	d.say("")
}

// cell keeps text inside its cell and its line.
var cell = strings.NewReplacer("|", `\|`, "\n", " ")

func (d *document) row(cells ...string) {
	for _, c := range cells {
		fmt.Fprintf(&d.b, "| %s ", cell.Replace(c))
	}
	d.say("|")
}

func (d *document) rule(columns int) { d.say("|---%s|", strings.Repeat("|---:", columns-1)) }
