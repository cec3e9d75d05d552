package probe

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// neighbourOverflows counts how often the kernel had no room for one more neighbour, since it runs: then it drops a packet to a target on the same link
// and tells nobody. Zero if it cannot be told.
func neighbourOverflows() int {
	total := 0
	for _, table := range []string{"arp_cache", "ndisc_cache"} {
		// Of the thread, which may have entered another network namespace than the process.
		text, err := os.ReadFile("/proc/thread-self/net/stat/" + table)
		if err == nil {
			total += tableFulls(string(text))
		}
	}
	return total
}

// tableFulls sums the column of that name up, of a file with a line of names and then one of hexadecimal numbers for each CPU.
func tableFulls(text string) int {
	head, rest, _ := strings.Cut(text, "\n")
	column := slices.Index(strings.Fields(head), "table_fulls")
	total := 0
	for line := range strings.Lines(rest) {
		fields := strings.Fields(line)
		if column < 0 || column >= len(fields) {
			return total
		}
		n, err := strconv.ParseUint(fields[column], 16, 32)
		if err != nil {
			return total
		}
		total += int(n)
	}
	return total
}
