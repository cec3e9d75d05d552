package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/bench/report"
)

// machine describes where this runs. What cannot be found out stays empty.
func machine(ctx context.Context) report.Machine {
	m := report.Machine{CPUs: runtime.NumCPU(), Tools: map[string]string{"go": runtime.Version()}}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		// Behind the version stands who built it, which is nobody's business.
		m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	m.CPU = fieldOf("/proc/cpuinfo", "model name")
	m.Memory = fieldOf("/proc/meminfo", "MemTotal")
	m.Commit = firstLine(ctx, "git", "rev-parse", "--short", "HEAD")
	for name, command := range map[string][]string{
		"iptables": {"iptables-nft", "--version"}, "nft": {"nft", "--version"}, "ipset": {"ipset", "--version"},
		"nmap": {"nmap", "--version"}, "hping3": {"hping3", "--version"},
		"firehol": {"sed", "-n", `s/^VERSION=//p`, "/usr/lib/firehol/install.config"},
	} {
		m.Tools[name] = firstLine(ctx, command[0], command[1:]...)
	}
	return m
}

// machineLoad is the load average of the last minute, or 0 if nobody knows.
func machineLoad() float64 {
	var load float64
	data, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(data), &load)
	}
	if err != nil {
		return 0
	}
	return load
}

// fieldOf finds the first "name: value" in a file.
func fieldOf(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// firstLine is the first line that a program prints.
func firstLine(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return ""
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return strings.TrimSpace(string(line))
}
