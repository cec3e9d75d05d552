package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// counters is what the kernel has counted so far about a site's firewall and the receiving CPU.
type counters struct {
	received uint64        // packets that came to the firewall from the attacker
	dropped  uint64        // packets that the receiving CPU had no room for
	answers  uint64        // SYN+ACKs to the flood's sources
	others   uint64        // anything else to the flood's sources
	passed   uint64        // unrelated packets that have passed the firewall
	softirq  time.Duration // what the receiving CPU has spent on packets (and timers)
	cookies  uint64        // SYNs that a SYNPROXY took
}

func (s *site) counters() (counters, error) {
	var c counters
	link, err := s.Firewall.Netlink().LinkByName("eth2")
	if err != nil {
		return c, err
	}
	c.received = link.Attrs().Statistics.RxPackets
	if c.answers, c.others, err = s.hole.Count(); err != nil {
		return c, err
	}
	if _, c.passed, err = s.aside.Count(); err != nil {
		return c, err
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return c, err
	}
	if c.softirq, err = softirqTime(stat); err != nil {
		return c, err
	}
	table, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		return c, err
	}
	if c.dropped, _, err = softnet(table); err != nil {
		return c, err
	}
	err = s.Firewall.Do(func() error {
		table, err := os.ReadFile("/proc/thread-self/net/stat/synproxy")
		if os.IsNotExist(err) {
			return nil // no rule has asked for it
		}
		c.cookies = synproxySYNs(table)
		return err
	})
	return c, err
}

// since returns what was counted from before to c.
func (c counters) since(before counters) counters {
	return counters{
		received: c.received - before.received,
		dropped:  c.dropped - before.dropped,
		answers:  c.answers - before.answers,
		others:   c.others - before.others,
		passed:   c.passed - before.passed,
		softirq:  c.softirq - before.softirq,
		cookies:  uint64(uint32(c.cookies) - uint32(before.cookies)), // wraps at 32 bits
	}
}

// tick is the unit of /proc/stat, USER_HZ, on every architecture that this runs on.
const tick = 10 * time.Millisecond

// softirqTime finds in /proc/stat how long the receiving CPU was in softirqs: proc_stat(5), the seventh number.
func softirqTime(stat []byte) (time.Duration, error) {
	for line := range strings.Lines(string(stat)) {
		fields := strings.Fields(line)
		if len(fields) > 7 && fields[0] == fmt.Sprint("cpu", receiverCPU) {
			n, err := strconv.ParseInt(fields[7], 10, 64)
			return time.Duration(n) * tick, err
		}
	}
	return 0, fmt.Errorf("/proc/stat: no cpu%d", receiverCPU)
}

// softnet finds in /proc/net/softnet_stat how many packets did not fit into the backlog of the receiving CPU, and how
// many are in it: the second and the twelfth number, hexadecimal. The thirteenth is the CPU.
func softnet(table []byte) (dropped, backlog uint64, err error) {
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 13 {
			continue
		}
		if n, err := strconv.ParseUint(fields[12], 16, 32); err == nil && n == receiverCPU {
			dropped, err1 := strconv.ParseUint(fields[1], 16, 64)
			backlog, err2 := strconv.ParseUint(fields[11], 16, 64)
			return dropped, backlog, errors.Join(err1, err2)
		}
	}
	return 0, 0, fmt.Errorf("/proc/net/softnet_stat: no CPU %d", receiverCPU)
}

// settle waits until the receiver has worked off its backlog, and a little longer.
func settle(ctx context.Context) error {
	for {
		table, err := os.ReadFile("/proc/net/softnet_stat")
		if err != nil {
			return err
		}
		_, backlog, err := softnet(table)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if backlog == 0 {
			return nil
		}
	}
}

// synproxySYNs sums the column syn_received of /proc/net/stat/synproxy, whose lines are those of the CPUs.
func synproxySYNs(table []byte) uint64 {
	var sum uint64
	lines := bufio.NewScanner(bytes.NewReader(table))
	for first := true; lines.Scan(); first = false {
		fields := strings.Fields(lines.Text())
		if first || len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 16, 32); err == nil {
			sum += n
		}
	}
	return sum
}

// eachThread calls f for each thread of this process. A thread that has just ended is no fault.
func eachThread(f func(tid int) error) error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if err := f(tid); err != nil {
			if _, gone := os.Stat("/proc/self/task/" + e.Name()); gone == nil {
				return err
			}
		}
	}
	return nil
}
