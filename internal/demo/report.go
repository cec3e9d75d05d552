package demo

import (
	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

// Report is what a demo has measured. Its JSON form is the output of "synproxyctl demo --json".
type Report struct {
	// Holds is true if [Report.Faults] is empty.
	Holds bool `json:"holds"`
	// Faults says in words where the story did not hold; empty, never nil, if it did.
	Faults []string `json:"faults"`
	// Kernel is the release of the running kernel, as of uname(2).
	Kernel string `json:"kernel"`
	// CPUs is how many CPUs the demo could use.
	CPUs int `json:"cpus"`
	// Seconds is how long the whole demo took.
	Seconds float64 `json:"seconds"`
	// Flood is what the attacker was told to send in each run with a flood.
	Flood Flood `json:"flood"`
	// Load is what the good client was told to do in every run.
	Load Load `json:"load"`
	// Direct is the run without a flood and without protection.
	Direct *Measurement `json:"direct"`
	// Cookies is the run with the flood, without protection, and with SYN cookies on the server.
	Cookies *Measurement `json:"cookies"`
	// Unprotected is the run with the flood and without protection.
	Unprotected *Measurement `json:"unprotected"`
	// Protected is the run with the flood and with protection.
	Protected *Measurement `json:"protected"`
	// Tool is what the commands of synproxyctl said, in the order in which they ran.
	Tool Tool `json:"tool"`
	// Left compares the firewall before apply and after revert.
	Left Left `json:"left"`
}

// Flood is a SYN flood from random sources.
type Flood struct {
	// Target is the attacked address and port.
	Target string `json:"target"`
	// Packets is how many SYNs to send.
	Packets int `json:"packets"`
	// Rate is how many to send in a second, at most.
	Rate float64 `json:"rate"`
	// Seed makes the same SYNs in every run.
	Seed uint64 `json:"seed"`
	// Sources is the prefix of the random source addresses.
	Sources string `json:"sources"`
}

// Load is what a good client does.
type Load struct {
	// Connections is how many it makes.
	Connections int `json:"connections"`
	// Rate is how many it begins in a second.
	Rate float64 `json:"rate"`
	// TimeoutMillis is after how many milliseconds without an answer a connection counts as lost.
	TimeoutMillis int64 `json:"timeout_ms"`
	// Backlog is the length of the server's queues (listen(2)).
	Backlog int `json:"backlog"`
}

// Measurement is one run of the good client, with or without a flood, through machines that were built for it.
type Measurement struct {
	// SYNCookies tells whether the server had SYN cookies (net.ipv4.tcp_syncookies=1).
	SYNCookies bool `json:"syn_cookies"`
	// Connections is how many good connections were begun, Served how many of them got every answer, Lost the rest.
	Connections int `json:"connections"`
	Served      int `json:"served"`
	Lost        int `json:"lost"`
	// Errors counts the lost ones by kind, such as "timeout".
	Errors map[string]int `json:"errors"`
	// Latency is that of the served ones, from the begin of connect to the first answer.
	Latency Latency `json:"latency_us"`
	// SYNs is how many SYNs of the flood reached the firewall; 0 without a flood.
	SYNs int `json:"syns"`
	// SYNRate is SYNs for each second of the flood.
	SYNRate float64 `json:"syns_per_second"`
	// Conntrack is how full the firewall's connection tracking table was at the worst moment.
	Conntrack Conntrack `json:"conntrack"`
	// SYNQueue is the most half-open connections that the server held at once, sampled.
	SYNQueue int `json:"syn_queue"`
	// Server is what the server's kernel counted.
	Server ServerCounters `json:"server"`
	// SYNPROXY is what the firewall's SYNPROXY counted, as synproxyctl status tells it; nil without protection.
	SYNPROXY *kernel.SynproxyStats `json:"synproxy"`
}

// Latency holds percentiles in microseconds; all are 0 if no connection was served.
type Latency struct {
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

// Conntrack is a number of connection tracking entries and the machine's limit; 0 means no limit.
type Conntrack struct {
	Peak int `json:"peak"`
	Max  int `json:"max"`
}

// Full tells whether the table was as full as it gets: the kernel makes room for a new entry by dropping another,
// so that the count stays within a few entries of the limit.
func (c Conntrack) Full() bool { return c.Max > 0 && c.Peak >= c.Max-c.Max/1000 }

// Tool is what the commands of synproxyctl said on the firewall.
type Tool struct {
	Probe  Probe  `json:"probe"`
	Apply  Apply  `json:"apply"`
	Status Status `json:"status"`
	Verify Verify `json:"verify"`
	Revert Revert `json:"revert"`
}

// Probe is the answer of the backend, from the JSON output of synproxyctl probe.
type Probe struct {
	Verdict  string `json:"verdict"`
	IPTables string `json:"iptables"`
	Speaks   string `json:"speaks"`
}

// Apply is what was changed, from the JSON output of synproxyctl apply.
type Apply struct {
	Backend  string `json:"backend"`
	Rules    int    `json:"rules"`
	Sysctls  int    `json:"sysctls"`
	Verified bool   `json:"verified"`
}

// Status is the state after the flood, from the JSON output of synproxyctl status.
type Status struct {
	State    string               `json:"state"`
	Counters kernel.SynproxyStats `json:"counters"`
}

// Verify is from the JSON output of synproxyctl verify after the flood.
type Verify struct {
	OK bool `json:"ok"`
}

// Revert is from the JSON output of synproxyctl revert.
type Revert struct {
	Changed bool   `json:"changed"`
	State   string `json:"state"`
}

// Left compares the firewall before apply and after revert.
type Left struct {
	// Programs are those whose dumps of rules were compared.
	Programs []string `json:"programs"`
	// Rules is how many lines those dumps have, without comments, and Settings how many kernel settings were compared.
	Rules    int `json:"rules"`
	Settings int `json:"settings"`
	// Differences are the lines that are there only before ("-") or only after ("+"); empty, never nil, if nothing is left.
	Differences []string `json:"differences"`
	// Loose is net.netfilter.nf_conntrack_tcp_loose before apply, under protection, and after revert.
	Loose [3]string `json:"loose"`
}
