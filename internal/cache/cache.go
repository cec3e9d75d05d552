// Package cache remembers what backends have answered to probes, so that a boot
// needs no network.
//
// [Parse] and [Cache.Write] are pure; [Dir] keeps a cache in a directory that
// only its owner writes to. What it holds is not trusted beyond what a backend
// could have said: an entry out of range is dropped. The package asks nobody,
// and does not judge how old an answer may be.
package cache

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
)

const (
	// schema is the version of the form.
	schema = 1
	// MaxAnswers bounds how many answers are kept; the oldest go.
	MaxAnswers = 200_000

	minMSS    = 88 // TCP_MIN_MSS in the kernel's include/net/tcp.h
	maxWScale = 14 // RFC 7323, section 2.2
	maxName   = 64
)

// A Key is whom was asked, and how: an answer depends on the way.
type Key struct {
	Namespace string         // network namespace, as kernel.NetNSID tells it
	At        netip.AddrPort // who was asked
	Interface string         // by which the question left; empty: that of the route
	Source    netip.Addr     // from which it was asked; not valid: that of the route
}

// Who tells who speaks first on a connection.
type Who string

// The values of [Answer.Speaks].
const (
	NotAsked Who = ""        // no connection was made
	Nobody   Who = "unknown" // it could not be found
	Client   Who = "client"
	Server   Who = "server"
)

// An Answer is what a backend said.
type Answer struct {
	MSS        *uint16 // 88 to 65535 bytes; nil: not sent
	WScale     *uint8  // 0 to 14; nil: not sent
	SACKPerm   bool
	Timestamps bool
	SYNCookies bool // it answered with SYN cookies of its own
	Speaks     Who
	// Hook is where packets to the service passed then: input or forward; empty
	// if that is not known. At boot the routes do not tell yet.
	Hook     string
	ProbedAt time.Time
}

// A Cache holds answers. The zero value is empty and ready to use.
type Cache struct {
	answers map[Key]Answer
	hooks   map[place]Answer // the newest that has one; nil until it is asked for
	// Dropped is how many entries were not such as a probe brings.
	Dropped int
}

// Get returns the answer that is remembered.
func (c *Cache) Get(k Key) (Answer, bool) {
	a, ok := c.answers[k]
	return a, ok
}

// place is where a backend is, and for whom.
type place struct {
	namespace string
	at        netip.AddrPort
}

// Hook returns where packets to a backend's service passed when it was asked last,
// whichever way; empty if that is not known.
func (c *Cache) Hook(namespace string, at netip.AddrPort) string {
	if c.hooks == nil {
		c.hooks = map[place]Answer{}
		for k, a := range c.answers {
			p := place{k.Namespace, k.At}
			if a.Hook != "" && (c.hooks[p].Hook == "" || a.ProbedAt.After(c.hooks[p].ProbedAt)) {
				c.hooks[p] = a
			}
		}
	}
	return c.hooks[place{namespace, at}].Hook
}

// Len returns how many answers there are.
func (c *Cache) Len() int { return len(c.answers) }

// Put remembers an answer, in the place of an older one of the same key.
func (c *Cache) Put(k Key, a Answer) {
	if c.answers == nil {
		c.answers = map[Key]Answer{}
	}
	c.answers[k], c.hooks = a, nil
}

// entry is the form in which an answer is kept.
type entry struct {
	Namespace  string    `json:"namespace"`
	At         string    `json:"at"`
	Interface  string    `json:"interface,omitempty"`
	Source     string    `json:"source,omitempty"`
	MSS        *uint16   `json:"mss"`
	WScale     *uint8    `json:"wscale"`
	SACKPerm   bool      `json:"sack_perm"`
	Timestamps bool      `json:"timestamps"`
	SYNCookies bool      `json:"syn_cookies,omitempty"`
	Speaks     Who       `json:"speaks,omitempty"`
	Hook       string    `json:"hook,omitempty"`
	ProbedAt   time.Time `json:"probed_at"`
}

func entryOf(k Key, a Answer) entry {
	e := entry{
		k.Namespace, k.At.String(), k.Interface, "",
		a.MSS, a.WScale, a.SACKPerm, a.Timestamps, a.SYNCookies, a.Speaks, a.Hook, a.ProbedAt,
	}
	if k.Source.IsValid() {
		e.Source = k.Source.String()
	}
	return e
}

// Parse reads a cache, an entry at a time. Entries that no probe brings are
// dropped and counted; a text that is no cache is an error.
func Parse(r io.Reader) (*Cache, error) { return parse(r, MaxAnswers) }

func parse(r io.Reader, most int) (*Cache, error) {
	c := &Cache{answers: map[Key]Answer{}}
	var err error
	if c.Dropped, err = each(r, most, c.Put); err != nil {
		return nil, err
	}
	return c, nil
}

// each reads a cache and hands on its answers, one at a time.
func each(r io.Reader, most int, take func(Key, Answer)) (dropped int, err error) {
	dec := json.NewDecoder(r)
	if err := header(dec); err != nil {
		return 0, err
	}
	for n := 0; dec.More(); n++ {
		if n == most {
			return 0, fmt.Errorf("more than %d answers", most)
		}
		var e entry
		err := dec.Decode(&e)
		if wrong := (*json.SyntaxError)(nil); errors.As(err, &wrong) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("%w: %w", errForm, err)
		}
		var k Key
		var a Answer
		if err == nil {
			k, a, err = e.read()
		}
		if err != nil {
			dropped++
			continue
		}
		take(k, a)
	}
	for _, want := range []json.Delim{']', '}'} {
		if t, err := dec.Token(); err != nil || t != want {
			return 0, errForm
		}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return 0, errForm
	}
	return dropped, nil
}

// header reads what stands before the answers.
func header(dec *json.Decoder) error {
	for _, want := range []json.Token{json.Delim('{'), "schema", float64(schema), "answers", json.Delim('[')} {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", errForm, err)
		}
		if version, ok := t.(float64); ok && want == json.Token(float64(schema)) && version != schema {
			return fmt.Errorf("schema %v is not known to this version", version)
		}
		if t != want {
			return errForm
		}
	}
	return nil
}

var errForm = errors.New("not what synproxyctl writes")

var errRange = errors.New("out of range")

// read checks an entry.
func (e entry) read() (Key, Answer, error) {
	k := Key{Namespace: e.Namespace, Interface: e.Interface}
	at, err := netip.ParseAddrPort(e.At)
	if err != nil {
		return k, Answer{}, err
	}
	k.At = at
	if e.Source != "" {
		if k.Source, err = netip.ParseAddr(e.Source); err != nil {
			return k, Answer{}, err
		}
	}
	a := Answer{e.MSS, e.WScale, e.SACKPerm, e.Timestamps, e.SYNCookies, e.Speaks, e.Hook, e.ProbedAt}
	addr := at.Addr()
	switch {
	case at.Port() == 0, addr.Is4In6(), addr.IsUnspecified(), addr.IsMulticast(),
		a.MSS != nil && *a.MSS < minMSS, a.WScale != nil && *a.WScale > maxWScale,
		!slices.Contains([]Who{NotAsked, Nobody, Client, Server}, a.Speaks), !slices.Contains([]string{"", "input", "forward"}, a.Hook),
		a.ProbedAt.IsZero(), len(e.Namespace) > maxName, len(e.Interface) > maxName:
		return k, a, errRange
	}
	return k, a, nil
}

// Write writes the form that [Parse] reads, one answer on each line, the newest
// first. Of more than [MaxAnswers] the oldest are left out.
func (c *Cache) Write(to io.Writer) error { return c.write(to, nil, MaxAnswers) }

// write also writes what an older cache has, if it is not nil, as it is read: it
// is never in memory as a whole. What of it is damaged ends it.
func (c *Cache) write(to io.Writer, older io.Reader, most int) error {
	type dated struct {
		Key
		probed int64
	}
	keys := make([]dated, 0, len(c.answers))
	for k, a := range c.answers {
		keys = append(keys, dated{k, a.ProbedAt.Unix()})
	}
	slices.SortFunc(keys, func(x, y dated) int {
		return cmp.Or(cmp.Compare(y.probed, x.probed), x.At.Compare(y.At), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Interface, y.Interface))
	})
	w := bufio.NewWriter(to)
	fmt.Fprintf(w, "{\"schema\":%d,\"answers\":[", schema)
	n := 0
	var failed error
	put := func(k Key, a Answer) {
		line, err := json.Marshal(entryOf(k, a))
		if err != nil || n == most {
			failed = cmp.Or(failed, err)
			return
		}
		if n > 0 {
			_ = w.WriteByte(',') // Flush tells
		}
		n++
		_ = w.WriteByte('\n')
		_, _ = w.Write(line)
	}
	for _, k := range keys {
		put(k.Key, c.answers[k.Key])
	}
	if older != nil {
		_, _ = each(older, most, func(k Key, a Answer) {
			if _, newer := c.answers[k]; !newer {
				put(k, a)
			}
		})
	}
	_, _ = w.WriteString("\n]}\n")
	return cmp.Or(failed, w.Flush())
}
