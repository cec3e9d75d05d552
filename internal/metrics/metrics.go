// Package metrics tells the status of the protection as Prometheus metrics: for
// who scrapes, and as a text. It opens no socket.
package metrics

import (
	"cmp"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// descs are all metrics that there are.
var descs []*prometheus.Desc

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("synproxyctl_"+name, help, labels, nil)
	descs = append(descs, d)
	return d
}

// docs/metrics.md explains them; a test compares.
var (
	buildInfo = desc("build_info", "1; which version tells this.", "version", "goversion")
	up        = desc("up", "1 if the status could be read, else 0, and what it would tell is absent.")
	readAt    = desc("status_timestamp_seconds", "When the status was read, in seconds since 1970.")
	readTook  = desc("status_duration_seconds", "How long it took to read the status.")

	state       = desc("state", "1 for the state that the protection is in, 0 for the others.", "state")
	backendInfo = desc("backend_info", "1; the backend that holds the rules.", "backend")
	findings    = desc("findings", "What status finds to be wrong or remarkable, by code.", "severity", "code")
	settingOK   = desc("sysctl_ok", "1 if the kernel's setting is as the protection needs it.", "key")
	trial       = desc("trial_deadline_timestamp_seconds", "When a change on trial is taken back unless it is confirmed; absent without one.")
	watchRound  = desc("watch_last_round_timestamp_seconds", "When the watcher has looked last; absent if nobody watches.")

	syns      = desc("syns_answered_total", "SYNs that were answered with a cookie, by all services together.")
	cookies   = desc("cookies_total", "ACKs by what their cookie was: valid, invalid, or repeated.", "result")
	reopened  = desc("connections_reopened_total", "Connections that took over the conntrack entry of an earlier one.")
	proxied   = desc("proxied_connections", "Connections that SYNPROXY has opened and that are alive.")
	tracked   = desc("conntrack_entries", "Entries of the connection tracking table.")
	trackable = desc("conntrack_entries_limit", "How many entries the connection tracking table may have; 0 without a limit.")

	verifyTime     = desc("last_verify_timestamp_seconds", "When rules and settings were verified last; absent before the first time.")
	verifyOK       = desc("last_verify_ok", "1 if the last verification found nothing wrong.")
	verifyFindings = desc("last_verify_findings", "What the last verification found.", "severity")
	probeTime      = desc("last_probe_timestamp_seconds", "When the backends were asked last, all of them; absent before the first time.")
	probeServices  = desc("last_probe_services", "Services by what their backend answered then: as announced, other options, or nothing usable.", "answer")
	liveTime       = desc("last_live_timestamp_seconds", "When the protection was last tried with real packets; absent before the first time.")
	liveServices   = desc("last_live_services", "Services by what came of that.", "result")

	services    = desc("services", "Services that are protected.")
	serviceSYNs = desc("service_syns_total", "SYNs that were sent to the service since its rules were made.", "service")
	serviceInfo = desc("service_info", "1; where a service is, and the options that are announced for it.",
		"service", "name", "address", "port", "family", "hook", "mode", "mss", "wscale", "sack", "timestamps", "source")
)

// Snapshot is one [protect.Status] as metrics. It is a [prometheus.Collector].
type Snapshot struct {
	Version string
	// Status is what was read; nil: it could not be.
	Status *protect.Status
	// At and Took are when it was read, and how long that took.
	At   time.Time
	Took time.Duration
	// Counters are told instead of those of Status, which wrap; see [kernel.SynproxyTotal].
	Counters kernel.SynproxyStats
	// MaxServices is how many services may have series of their own. With more
	// of them none has, so that no series comes and goes.
	MaxServices int
}

// Describe implements [prometheus.Collector].
func (s Snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// sink takes metrics.
type sink chan<- prometheus.Metric

func (ch sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (ch sink) counter(d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// truth tells 1 or 0.
func (ch sink) truth(d *prometheus.Desc, yes bool, labels ...string) {
	v := 0.0
	if yes {
		v = 1
	}
	ch.gauge(d, v, labels...)
}

func (ch sink) time(d *prometheus.Desc, t time.Time) {
	ch.gauge(d, float64(t.UnixMilli())/1000) //nolint:mnd // milliseconds
}

// Collect implements [prometheus.Collector].
func (s Snapshot) Collect(metrics chan<- prometheus.Metric) {
	ch := sink(metrics)
	ch.gauge(buildInfo, 1, s.Version, runtime.Version())
	ch.truth(up, s.Status != nil)
	if s.Status == nil {
		return
	}
	ch.time(readAt, s.At)
	ch.gauge(readTook, s.Took.Seconds())
	ch.protection(s.Status)
	ch.counter(syns, s.Counters.SYNReceived)
	ch.counter(cookies, s.Counters.CookieValid, "valid")
	ch.counter(cookies, s.Counters.CookieInvalid, "invalid")
	ch.counter(cookies, s.Counters.CookieRetrans, "repeated")
	ch.counter(reopened, s.Counters.ConnReopened)
	ch.verified(s.Status.LastVerify)
	ch.services(s.Status.Services, s.MaxServices)
}

// protection tells how things are.
func (ch sink) protection(st *protect.Status) {
	for _, is := range []protect.State{protect.Absent, protect.Active, protect.Draining, protect.Drifted} {
		ch.truth(state, st.State == is, string(is))
	}
	if st.Backend != "" {
		ch.gauge(backendInfo, 1, st.Backend)
	}
	type kind struct{ severity, code string }
	told, counted := map[kind]int{}, true
	for _, f := range st.Findings {
		told[kind{string(f.Severity), f.Code}]++
		counted = counted && f.Code != protect.ConnectionsUnknown
	}
	for k, n := range told {
		ch.gauge(findings, float64(n), k.severity, k.code)
	}
	for _, set := range st.Sysctls {
		ch.truth(settingOK, set.OK, set.Key)
	}
	if st.Pending != nil {
		ch.time(trial, st.Pending.Deadline)
	}
	if st.Watch != nil && !st.Watch.LastRound.IsZero() {
		ch.time(watchRound, st.Watch.LastRound)
	}
	if counted {
		ch.gauge(proxied, float64(st.Connections.Proxied))
	}
	ch.gauge(tracked, float64(st.Conntrack.Count))
	ch.gauge(trackable, float64(st.Conntrack.Max))
}

// verified tells what is known of the last verification.
func (ch sink) verified(v *protect.LastVerify) {
	if v == nil {
		return
	}
	ch.time(verifyTime, v.Time)
	ch.truth(verifyOK, v.OK)
	ch.gauge(verifyFindings, float64(v.Findings.Bad), string(protect.Bad))
	ch.gauge(verifyFindings, float64(v.Findings.Warn), string(protect.Warn))
	ch.gauge(verifyFindings, float64(v.Findings.Info), string(protect.Info))
	if p := v.LastProbe; p != nil {
		ch.time(probeTime, p.Time)
		ch.gauge(probeServices, float64(p.Asked-p.Differ-p.Silent), "same")
		ch.gauge(probeServices, float64(p.Differ), "differs")
		ch.gauge(probeServices, float64(p.Silent), "none")
	}
	if p := v.LastLive; p != nil {
		ch.time(liveTime, p.Time)
		ch.gauge(liveServices, float64(p.Services-p.Unproven), "proven")
		ch.gauge(liveServices, float64(p.Unproven), "unproven")
	}
}

// services tells of each service, if there are not too many.
func (ch sink) services(list protect.Services, longest int) {
	ch.gauge(services, float64(len(list)))
	if len(list) > longest {
		return
	}
	for i := range list {
		svc := &list[i]
		id := svc.String()
		if svc.Received != nil {
			ch.counter(serviceSYNs, *svc.Received, id)
		}
		address, o := svc.Destination.String(), svc.Options
		if svc.Destination.IsSingleIP() {
			address = svc.Destination.Addr().String()
		}
		// A label that is not text would stop everything.
		ch.gauge(serviceInfo, 1, id, strings.ToValidUTF8(svc.Name, "?"), address, fmt.Sprint(svc.Port), string(svc.Family()), string(svc.Hook),
			string(cmp.Or(svc.Mode, rules.ModeTracked)), number(o.MSS), number(o.WScale), strconv.FormatBool(o.SACKPerm), strconv.FormatBool(o.Timestamps), string(svc.Source))
	}
}

// number is empty for an option that is not announced.
func number[N uint8 | uint16](n *N) string {
	if n == nil {
		return ""
	}
	return fmt.Sprint(*n)
}
