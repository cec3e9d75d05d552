package protect

import (
	"fmt"
	"slices"
)

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

// tally collects findings, those that differ only in the service as one.
type tally struct {
	list    []Finding
	at      map[sameness]*tallied
	service int
}

// sameness is what findings share that are told as one: about tells apart what
// is not the same in spite of the same code.
type sameness struct {
	severity    Severity
	code, about string
}

// tallied is a finding in the list of a [tally].
type tallied struct {
	index int // in the list
	last  int // the service of which it was told last
}

// next begins with what is to be told of one more service.
func (t *tally) next() { t.service++ }

// add takes a finding; for about see [sameness].
func (t *tally) add(f Finding, about string) {
	t.tell(f.Severity, f.Code, about, func() Finding { return f })
}

// tell takes a finding that is only made if it is the first of its kind.
func (t *tally) tell(s Severity, code, about string, first func() Finding) {
	key := sameness{s, code, about}
	known := t.at[key]
	switch {
	case known == nil:
		if t.at == nil {
			t.at = map[sameness]*tallied{}
		}
		known = &tallied{index: len(t.list)}
		t.at[key] = known
		t.list = append(t.list, first())
	case known.last != t.service:
		t.list[known.index].more++
	}
	known.last = t.service
}

// findings returns what was collected, the worst first.
func (t *tally) findings() []Finding {
	for i, f := range t.list {
		switch {
		case f.more == 1:
			t.list[i].Message += " (and one more service)"
		case f.more > 1:
			t.list[i].Message += fmt.Sprintf(" (and %d more services)", f.more)
		}
		t.list[i].more = 0
	}
	rank := map[Severity]int{Bad: 0, Warn: 1, Info: 2}
	slices.SortStableFunc(t.list, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] })
	return t.list
}

// count says how many there are of something.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
