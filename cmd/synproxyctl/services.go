package main

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// manyServices is how many rows people are shown unless they ask for all.
const manyServices = 40

func allFlag() cli.Flag {
	return &cli.BoolFlag{Name: "all", DisableDefaultText: true, Usage: fmt.Sprintf("show each service, even if there are more than %d", manyServices)}
}

// writeServices shows services as a table. Of many, those that differ only in
// where they are share a row, unless all shall be shown.
func writeServices(w io.Writer, services []protect.Service, all bool) {
	rows := [][]string{{"SERVICE", "HOOK", "MODE", "INTERFACES", "FIRST", "MSS", "WSCALE", "SACK", "TS", "SOURCE"}}
	if len(services) > 0 && services[0].Received != nil {
		rows[0] = append(rows[0], "SYNS")
	}
	if all || len(services) <= manyServices {
		for i := range services {
			rows = append(rows, serviceRow(&services[i]))
		}
		table(w, rows...)
		return
	}
	type key struct {
		protect.Kind
		to netip.AddrPort
	}
	rest := 0
	var counts []int
	var syns []uint64
	row := map[key]int{}
	for i := range services {
		s := &services[i]
		k := key{s.Kind(), s.To}
		n, known := row[k]
		switch {
		case known:
			counts[n]++
		case len(counts) < manyServices:
			row[k] = len(counts)
			rows, counts, syns = append(rows, serviceRow(s)), append(counts, 0), append(syns, 0)
			n, known = row[k], true
		default:
			rest++
		}
		if known && s.Received != nil {
			syns[n] += *s.Received
			rows[n+1][len(rows[0])-1] = strconv.FormatUint(syns[n], 10)
		}
	}
	for n, more := range counts {
		if more > 0 {
			rows[n+1][0] += fmt.Sprintf(" and %d more", more)
		}
	}
	table(w, rows...)
	if rest > 0 {
		fmt.Fprintf(w, "and %d services more, unlike these\n", rest)
	}
	fmt.Fprintf(w, "%d services; --all lists them\n", len(services))
}

func serviceRow(s *protect.Service) []string {
	interfaces := "all but lo"
	if len(s.Interfaces) > 0 {
		interfaces = strings.Join(s.Interfaces, ",")
	}
	mode := string(s.Mode)
	switch {
	case s.To.IsValid():
		mode += " to " + s.To.String()
	case s.Published:
		mode += ", published"
	}
	first := s.First
	if first == "" {
		first = rules.FirstUnknown
	}
	row := []string{
		printable(title(s)), string(s.Hook), mode, interfaces, string(first), orDash(s.Options.MSS), orDash(s.Options.WScale),
		yesNo(s.Options.SACKPerm), yesNo(s.Options.Timestamps), source(s),
	}
	if s.Received != nil {
		row = append(row, strconv.FormatUint(*s.Received, 10))
	}
	return row
}

// title is what people know a service by, and where it is.
func title(s *protect.Service) string {
	place := s.String()
	if s.Name == "" || s.Name == place {
		return place
	}
	return s.Name + " (" + place + ")"
}

// source tells where the options are from; of a cached answer also how old it is.
func source(s *protect.Service) string {
	if s.ProbedAt.IsZero() {
		return string(s.Source)
	}
	return string(s.Source) + ", " + protect.Age(time.Since(s.ProbedAt)) + " old"
}
