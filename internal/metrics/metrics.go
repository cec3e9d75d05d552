// Package metrics tells the status of the protection as Prometheus metrics.
package metrics

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("synproxyctl_"+name, help, labels, nil)
}

var (
	state       = desc("state", "1 for the state that the protection is in, 0 for the others.", "state")
	backendInfo = desc("backend_info", "The backend that holds the rules.", "backend")
	syns        = desc("syns_answered_total", "SYNs that were answered with a cookie.")
	cookies     = desc("cookies_total", "ACKs by what their cookie was.", "result")
	reopened    = desc("connections_reopened_total", "Connections that took over the conntrack entry of an earlier one.")
	proxied     = desc("proxied_connections", "Connections that SYNPROXY opened and that are alive.")
	conntrack   = desc("conntrack_used_ratio", "Conntrack entries by their limit, 0 to 1; absent without a limit.")
	findings    = desc("findings", "Differences and remarks by code.", "severity", "code")
	trial       = desc("trial_deadline_timestamp_seconds", "When a change on trial is taken back; absent without one.")
	settingOK   = desc("sysctl_ok", "1 if the setting is as the protection needs it.", "key")
	services    = desc("services", "Services that are protected.")
	serviceSYNs = desc("service_syns_total", "SYNs that were sent to the service.", "service")
	serviceInfo = desc("service_info", "Where a service is, and the options that are announced for it.",
		"service", "name", "family", "hook", "mode", "mss", "wscale", "sack", "timestamps", "source")
)

// Snapshot is one [protect.Status] as metrics. It is a [prometheus.Collector].
type Snapshot struct {
	Status *protect.Status
	// Counters are told instead of those of Status, which wrap; see [kernel.SynproxyTotal].
	Counters kernel.SynproxyStats
	// MaxServices is how many services may have series of their own. With more
	// of them none has, so that no series comes and goes.
	MaxServices int
}

// Describe implements [prometheus.Collector].
func (s Snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		state, backendInfo, syns, cookies, reopened, proxied, conntrack, findings,
		trial, settingOK, services, serviceSYNs, serviceInfo,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (s Snapshot) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	st := s.Status
	for _, is := range []protect.State{protect.Absent, protect.Active, protect.Draining, protect.Drifted} {
		gauge(state, truth(st.State == is), string(is))
	}
	if st.Backend != "" {
		gauge(backendInfo, 1, st.Backend)
	}
	counter(syns, s.Counters.SYNReceived)
	counter(cookies, s.Counters.CookieValid, "valid")
	counter(cookies, s.Counters.CookieInvalid, "invalid")
	counter(cookies, s.Counters.CookieRetrans, "repeated")
	counter(reopened, s.Counters.ConnReopened)
	gauge(proxied, float64(st.Connections.Proxied))
	if st.Conntrack.Max > 0 {
		gauge(conntrack, float64(st.Conntrack.Count)/float64(st.Conntrack.Max))
	}
	type kind struct{ severity, code string }
	told := map[kind]int{}
	for _, f := range st.Findings {
		told[kind{string(f.Severity), f.Code}]++
	}
	for k, n := range told {
		gauge(findings, float64(n), k.severity, k.code)
	}
	if st.Pending != nil {
		gauge(trial, float64(st.Pending.Deadline.Unix()))
	}
	for _, set := range st.Sysctls {
		gauge(settingOK, truth(set.OK), set.Key)
	}
	gauge(services, float64(len(st.Services)))
	if len(st.Services) > s.MaxServices {
		return
	}
	for _, svc := range st.Services {
		if svc.Received != nil {
			counter(serviceSYNs, *svc.Received, svc.String())
		}
		o := svc.Options
		gauge(serviceInfo, 1, svc.String(), svc.Name, fmt.Sprint(svc.Family()), string(svc.Hook), string(svc.Mode),
			number(o.MSS), number(o.WScale), strconv.FormatBool(o.SACKPerm), strconv.FormatBool(o.Timestamps), string(svc.Source))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// number is empty for an option that is not announced.
func number[N uint8 | uint16](n *N) string {
	if n == nil {
		return ""
	}
	return fmt.Sprint(*n)
}
