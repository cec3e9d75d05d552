package protect

import "fmt"

// Severity grades a [Finding].
type Severity string

// The severities. Only findings that are [Bad] make a verification fail.
const (
	Bad  Severity = "error"
	Warn Severity = "warning"
	Info Severity = "info"
)

// Finding is something that a person should know. Its code is stable.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`
	Message  string   `json:"message"`
	Hint     string   `json:"hint"`
	more     int      // services that it holds for too
}

func finding(s Severity, code, hint, format string, args ...any) Finding {
	return Finding{Severity: s, Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// recordLost tells that rules of ours stood without an undo record.
func recordLost() Finding {
	return finding(Warn, "no-record", "after a revert, set net.netfilter.nf_conntrack_tcp_loose yourself; the kernel's default is 1",
		"rules of ours stood here without an undo record: what settings were before is not known")
}
