package protect

import (
	"context"
	"errors"
	"io/fs"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// State is the state of the protection.
type State string

// The states.
const (
	Absent   State = "absent"
	Active   State = "active"
	Draining State = "draining" // nothing is proxied any more; connections that were are alive
	Drifted  State = "drifted"
)

// ConnectionsUnknown is the code of the finding that proxied connections could not be counted.
const ConnectionsUnknown = "connections-unknown"

// Status is the outcome of [Host.Status].
type Status struct {
	State       State                `json:"state"`
	Backend     string               `json:"backend"` // empty when absent
	Services    Services             `json:"services"`
	Sysctls     []Setting            `json:"sysctls"`
	Counters    kernel.SynproxyStats `json:"counters"`
	Conntrack   Conntrack            `json:"conntrack"`
	Connections Connections          `json:"connections"`
	Findings    []Finding            `json:"findings"`
	Pending     *Pending             `json:"pending,omitempty"` // a change that awaits its confirmation
	Watch       *Watching            `json:"watch,omitempty"`   // who watches; nil: nobody
	LastVerify  *LastVerify          `json:"last_verify,omitempty"`
}

// count puts what the kernel has counted into the services.
func (st *Status) count(holds rules.Ruleset) {
	received := holds.Received(policyOf(st.Services).Services)
	for i := range st.Services {
		st.Services[i].Received = &received[i]
	}
}

// Conntrack tells how full the connection tracking table is.
type Conntrack struct {
	Count int `json:"count"`
	Max   int `json:"max"` // 0: no limit
}

// Connections counts connections.
type Connections struct {
	Proxied int `json:"proxied"` // those that SYNPROXY opened and that are alive
}

// Status tells how things are. It changes nothing. While another instance does, it
// tells what the record says.
func (h *Host) Status(ctx context.Context) (*Status, error) {
	if err := CanChange(); err != nil {
		return nil, err
	}
	rec, found, holds, err := h.inspect(ctx)
	if err != nil {
		return nil, err
	}
	st := &Status{State: Absent, Services: Services{}, Findings: found}
	if s, err := h.open(); err == nil {
		st.Watch, st.LastVerify = s.watching(), s.lastVerify()
	}
	switch {
	case bad(found):
		st.State = Drifted
	case rec != nil && rec.Draining:
		st.State = Draining
	case rec != nil:
		st.State = Active
	}
	if rec != nil {
		st.Backend, st.Services, st.Pending = rec.Backend, rec.Services, rec.Pending.view()
		if !holds.Empty() { // what was not looked at has not counted nothing
			st.count(holds)
		}
	}
	if st.Sysctls, err = h.settings(); err != nil {
		return nil, err
	}
	// What the kernel has not loaded yet has counted nothing.
	st.Counters, err = kernel.ReadSynproxyStats()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	st.Conntrack.Count, st.Conntrack.Max, err = kernel.ConntrackCount()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if st.Connections.Proxied, err = kernel.AliveProxied(ctx, nil); err != nil {
		st.Findings = append(st.Findings, finding(Warn, ConnectionsUnknown, "", "proxied connections could not be counted: %v", err))
	}
	return st, nil
}
