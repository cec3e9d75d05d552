package report

// The figures of floods. What counts is the receiving CPU's time for each SYN that it answers, since that is the same when
// something else on the machine takes a part of the CPU.
const (
	Offered   = "offered SYN/s"           // what the generator sent, and the firewall's interface took
	Answered  = "answered SYN/s"          // SYN+ACKs a second of wall time
	Rate      = "SYN/s"                   // SYN+ACKs a second of the receiving CPU's time
	SYNCost   = "ns per SYN"              // its reciprocal
	Busy      = "receiver busy"           // the receiving CPU's time over the wall's; 1: it is the bottleneck
	Unrelated = "ns per unrelated packet" // of one flow that no rule is about
)

// The figures of probes, whose size is the number of targets, and of bulk transfers.
const (
	Probe       = "probe: s"
	ProbeCPU    = "probe: CPU s"
	ProbeMemory = "probe: MB"
	Upload      = "upload, MB/s"
	Download    = "download, MB/s"
)

// Speakers are who may speak first on a good connection.
var Speakers = []string{"server", "client"}

// The properties of [Good].
const (
	Success = "share that succeeded"
	P50     = "p50, ms"
	P99     = "p99, ms"
	Max     = "max, ms"
	Flood   = "flood, SYN/s"
)

// Good names a figure of good connections: who speaks first, and a property.
func Good(speaker, property string) string { return "good, " + speaker + " first: " + property }

// Operations are what is timed, in order: each begins with what the one before has left.
var Operations = []string{"apply", "apply again", "one more", "revert"}

// The properties of [Operation].
const (
	Wall   = "s"
	CPU    = "CPU s"
	Memory = "MB"
)

// Operation names a figure of an operation: its name and a property.
func Operation(operation, property string) string { return operation + ": " + property }

// The contenders and probers that goals are about.
const (
	None        = "none"
	NoFlood     = "none, no flood"
	FireHOL     = "FireHOL"
	Tool        = "synproxyctl "
	ToolProbe   = "synproxyctl probe"
	Nmap        = "nmap -sS"
	StockPrefix = "stock "
)

// Backends are those of synproxyctl, each with the program that its stock recipe is for.
var Backends = []struct{ Name, Program string }{
	{"iptables-legacy", "iptables-legacy"}, {"iptables-nft", "iptables-nft"}, {"nftables", "nft"},
}
