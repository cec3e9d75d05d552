package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// synproxyPath goes through the calling thread: /proc/net is the main thread's.
const synproxyPath = "/proc/thread-self/net/stat/synproxy"

// SynproxyStats holds SYNPROXY's counters of one network namespace, summed over
// all CPUs. Each CPU's counter has 32 bits and wraps, so that a difference is
// to be taken by [SynproxyStats.Since].
//
// Source: net/netfilter/nf_synproxy_core.c, Linux 6.18.
type SynproxyStats struct {
	// SYNReceived counts the SYNs that were answered with a cookie.
	SYNReceived uint64 `json:"syn_received"`
	// CookieInvalid counts ACKs whose cookie was wrong or too old.
	CookieInvalid uint64 `json:"cookie_invalid"`
	// CookieValid counts ACKs with a right cookie, hence SYNs to the backend.
	CookieValid uint64 `json:"cookie_valid"`
	// CookieRetrans counts SYNs sent to the backend again because the client
	// repeated its ACK.
	CookieRetrans uint64 `json:"cookie_retrans"`
	// ConnReopened counts connections that took over the conntrack entry of an
	// earlier one.
	ConnReopened uint64 `json:"conn_reopened"`
}

// Since returns what was counted between earlier and s. It is right as long as
// fewer than 2^32 events of a kind lie between them, on all CPUs together.
func (s SynproxyStats) Since(earlier SynproxyStats) SynproxyStats {
	return SynproxyStats{
		SYNReceived:   since(s.SYNReceived, earlier.SYNReceived),
		CookieInvalid: since(s.CookieInvalid, earlier.CookieInvalid),
		CookieValid:   since(s.CookieValid, earlier.CookieValid),
		CookieRetrans: since(s.CookieRetrans, earlier.CookieRetrans),
		ConnReopened:  since(s.ConnReopened, earlier.ConnReopened),
	}
}

// since subtracts modulo 2^32: a wrapped CPU lowers the sum by just that much.
func since(now, earlier uint64) uint64 {
	return (now - earlier) & 0xffffffff
}

// ReadSynproxyStats reads the counters of the calling thread's network
// namespace. The error is [fs.ErrNotExist] when the kernel has not loaded
// nf_synproxy_core, which it does with the first SYNPROXY rule.
func ReadSynproxyStats() (SynproxyStats, error) {
	return readSynproxyStats(synproxyPath)
}

func readSynproxyStats(path string) (SynproxyStats, error) {
	file, err := os.Open(path)
	if err != nil {
		return SynproxyStats{}, fmt.Errorf("synproxy counters: %w", err)
	}
	defer file.Close()
	stats, err := ParseSynproxyStats(file)
	if err != nil {
		return SynproxyStats{}, fmt.Errorf("%s: %w", path, err)
	}
	return stats, nil
}

// ParseSynproxyStats reads the text of /proc/net/stat/synproxy: a line of
// column names, then one line of hexadecimal numbers for each possible CPU.
// Columns are found by name, so that a kernel may add some or change their
// order; a missing column, a short or long line and a number of more than
// 32 bits are errors.
func ParseSynproxyStats(r io.Reader) (SynproxyStats, error) {
	var stats SynproxyStats
	lines := bufio.NewScanner(r)
	if !lines.Scan() {
		return stats, errors.Join(errors.New("no header line"), lines.Err())
	}
	header := strings.Fields(lines.Text())
	sums := map[int]*uint64{}
	for name, sum := range map[string]*uint64{
		"syn_received":   &stats.SYNReceived,
		"cookie_invalid": &stats.CookieInvalid,
		"cookie_valid":   &stats.CookieValid,
		"cookie_retrans": &stats.CookieRetrans,
		"conn_reopened":  &stats.ConnReopened,
	} {
		column := slices.Index(header, name)
		if column < 0 {
			return SynproxyStats{}, fmt.Errorf("header has no column %q", name)
		}
		if slices.Contains(header[column+1:], name) {
			return SynproxyStats{}, fmt.Errorf("header has column %q twice", name)
		}
		sums[column] = sum
	}
	cpus := 0
	for ; lines.Scan(); cpus++ {
		if err := addCPU(sums, len(header), lines.Text()); err != nil {
			return SynproxyStats{}, fmt.Errorf("line %d: %w", cpus+2, err)
		}
	}
	if err := lines.Err(); err != nil {
		return SynproxyStats{}, fmt.Errorf("line %d: %w", cpus+2, err)
	}
	if cpus == 0 {
		return SynproxyStats{}, errors.New("no line of a CPU")
	}
	return stats, nil
}

// addCPU adds the numbers of one line to the sums of their columns.
func addCPU(sums map[int]*uint64, columns int, line string) error {
	fields := strings.Fields(line)
	if len(fields) != columns {
		return fmt.Errorf("%d numbers below %d columns", len(fields), columns)
	}
	for column, field := range fields {
		n, err := strconv.ParseUint(field, 16, 32)
		if err != nil {
			return fmt.Errorf("column %d: %w", column+1, err)
		}
		if sum := sums[column]; sum != nil {
			*sum += n
		}
	}
	return nil
}
