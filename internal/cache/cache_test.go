package cache

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func ptr[T any](v T) *T { return &v }

// moment is when the answers of these tests were given.
var moment = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

// answers are n keys with an answer each.
func answers(n int) *Cache {
	c := &Cache{}
	for i := range n {
		k := Key{Namespace: "cookie-1", At: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 443)}
		c.Put(k, Answer{MSS: ptr[uint16](1460), WScale: ptr[uint8](7), SACKPerm: true, Timestamps: true, Speaks: Client, ProbedAt: moment})
	}
	return c
}

func written(t testing.TB, c *Cache) string {
	t.Helper()
	var b strings.Builder
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	c := answers(3)
	six := Key{"inode-7", netip.MustParseAddrPort("[2001:db8::1]:80"), "eth0", netip.MustParseAddr("2001:db8::9")}
	c.Put(six, Answer{SYNCookies: true, Speaks: Nobody, ProbedAt: moment.Add(time.Hour)})
	text := written(t, c)
	got, err := Parse(strings.NewReader(text))
	if err != nil || got.Dropped != 0 || got.Len() != c.Len() || written(t, got) != text {
		t.Fatalf("%v: %s\n%s", err, written(t, got), text)
	}
	if a, ok := got.Get(six); !ok || a.MSS != nil || a.WScale != nil || !a.SYNCookies || a.Speaks != Nobody || !a.ProbedAt.Equal(moment.Add(time.Hour)) {
		t.Errorf("%+v, %t", a, ok)
	}
	if lines := strings.Split(text, "\n"); !strings.Contains(lines[1], "2001:db8::1") {
		t.Errorf("the newest is not the first:\n%s", text)
	}
	for _, other := range []Key{
		{"cookie-1", six.At, six.Interface, six.Source},
		{six.Namespace, six.At, "", six.Source},
		{six.Namespace, six.At, six.Interface, netip.Addr{}},
		{six.Namespace, netip.MustParseAddrPort("[2001:db8::1]:81"), six.Interface, six.Source},
	} {
		if _, ok := got.Get(other); ok {
			t.Errorf("%+v has the answer of another", other)
		}
	}
}

func TestParseDrops(t *testing.T) {
	t.Parallel()
	const good = `{"namespace":"cookie-1","at":"192.0.2.1:80","mss":1460,"wscale":7,"sack_perm":true,"timestamps":true,"speaks":"client","probed_at":"2026-05-04T03:02:01Z"}`
	parse := func(entry string) *Cache {
		t.Helper()
		c, err := Parse(strings.NewReader(`{"schema":1,"answers":[` + entry + `]}`))
		if err != nil {
			t.Fatalf("%s: %v", entry, err)
		}
		return c
	}
	if c := parse(good); c.Len() != 1 || c.Dropped != 0 {
		t.Fatalf("%+v", c)
	}
	for _, change := range [][2]string{
		{`1460`, `87`},
		{`1460`, `65536`},
		{`1460`, `-1`},
		{`1460`, `"a"`},
		{`1460`, `1.5`},
		{`:7,`, `:15,`},
		{`:7,`, `:300,`},
		{`"client"`, `"both"`},
		{`"client"`, `3`},
		{`"mss"`, `"hook":"output","mss"`},
		{`192.0.2.1:80`, `192.0.2.1:0`},
		{`192.0.2.1:80`, `192.0.2.1`},
		{`192.0.2.1:80`, `www.example.com:80`},
		{`192.0.2.1:80`, `0.0.0.0:80`},
		{`192.0.2.1:80`, `224.0.0.1:80`},
		{`192.0.2.1:80`, `[::ffff:192.0.2.1]:80`},
		{`2026-05-04T03:02:01Z`, `yesterday`},
		{`2026-05-04T03:02:01Z`, `0001-01-01T00:00:00Z`},
		{`cookie-1`, strings.Repeat("a", 65)},
		{`"mss"`, `"source":"here","mss"`},
		{`"mss"`, `"interface":"` + strings.Repeat("a", 65) + `","mss"`},
		{good, `3`},
		{good, `[]`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if c := parse(bad + "," + good); c.Len() != 1 || c.Dropped != 1 {
			t.Errorf("%s: %d kept, %d dropped", bad, c.Len(), c.Dropped)
		}
	}
}

// TestHook remembers where a service was by the newest answer, whichever way it came.
func TestHook(t *testing.T) {
	t.Parallel()
	var c Cache
	at := netip.MustParseAddrPort("192.0.2.1:80")
	for i, hook := range []string{"forward", "input", ""} {
		c.Put(Key{Namespace: "a", At: at, Interface: fmt.Sprint("eth", i)}, Answer{Hook: hook, ProbedAt: moment.Add(time.Duration(i) * time.Hour)})
	}
	got, err := Parse(strings.NewReader(written(t, &c)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Cache{&c, got} {
		if c.Hook("a", at) != "input" || c.Hook("b", at) != "" || c.Hook("a", netip.AddrPortFrom(at.Addr(), 81)) != "" {
			t.Errorf("%q, %q", c.Hook("a", at), c.Hook("b", at))
		}
	}
	c.Put(Key{Namespace: "b", At: at}, Answer{Hook: "input", ProbedAt: moment})
	if c.Hook("b", at) != "input" {
		t.Error("what was put later is not there")
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	whole := written(t, answers(2))
	for _, text := range []string{
		"", "{", "null", "[]", "{}", `{"schema":2,"answers":[]}`, `{"answers":[]}`, `{"schema":1}`, `{"schema":"1","answers":[]}`, `{"schema":1,"answers":{}}`,
		whole[:len(whole)/2], whole[:len(whole)-4], whole + "{", `{"schema":1,"answers":[` + strings.Repeat("[", 20_000), "\x00\xff",
	} {
		if c, err := Parse(strings.NewReader(text)); err == nil {
			t.Errorf("%.40q: %d answers", text, c.Len())
		}
	}
}

func TestBound(t *testing.T) {
	t.Parallel()
	const most = 100
	c := answers(most + 1)
	oldest := Key{Namespace: "cookie-1", At: netip.MustParseAddrPort("10.0.0.5:443")}
	a, _ := c.Get(oldest)
	a.ProbedAt = moment.Add(-time.Hour)
	c.Put(oldest, a)
	var b strings.Builder
	if err := c.write(&b, nil, most); err != nil {
		t.Fatal(err)
	}
	got, err := parse(strings.NewReader(b.String()), most)
	if err != nil || got.Len() != most {
		t.Fatalf("%v", err)
	}
	if _, ok := got.Get(oldest); ok {
		t.Error("the oldest answer was kept")
	}
	if _, err := parse(strings.NewReader(b.String()), most-1); err == nil {
		t.Error("more than the most were read")
	}
	// What is new comes first, and what is too much of the old goes.
	var newer Cache
	for i := range uint16(3) {
		newer.Put(Key{At: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), i+1)}, Answer{ProbedAt: moment.Add(time.Hour)})
	}
	var both strings.Builder
	if err := newer.write(&both, strings.NewReader(b.String()), most); err != nil {
		t.Fatal(err)
	}
	got, err = parse(strings.NewReader(both.String()), most)
	if err != nil || got.Len() != most {
		t.Fatalf("%d, %v", got.Len(), err)
	}
	for k := range newer.answers {
		if _, ok := got.Get(k); !ok {
			t.Errorf("%v is lost", k)
		}
	}
}

func TestDir(t *testing.T) {
	t.Parallel()
	d := Dir(filepath.Join(t.TempDir(), "state"))
	if c, err := d.Load(); err != nil || c.Len() != 0 {
		t.Fatalf("nothing there: %v", err)
	}
	// Several at once lose nothing.
	var wg sync.WaitGroup
	const writers = 8
	for i := range writers {
		wg.Go(func() {
			var c Cache
			k := Key{At: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
			c.Put(k, Answer{ProbedAt: moment})
			if err := d.Add(context.Background(), &c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, err := d.Load()
	if err != nil || c.Len() != writers {
		t.Errorf("%d answers of %d writers, %v", c.Len(), writers, err)
	}
	for path, want := range map[string]os.FileMode{string(d): 0o700 | os.ModeDir, d.Path(): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	entries, err := os.ReadDir(string(d))
	if err != nil || len(entries) != 2 { // the lock is the other
		t.Errorf("%v, %v", entries, err)
	}
}

func TestDirNotOurs(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(d Dir) error{
		"open to all": func(d Dir) error { return os.Chmod(string(d), 0o777) },
		"a file":      func(d Dir) error { _ = os.RemoveAll(string(d)); return os.WriteFile(string(d), nil, 0o600) },
		"a link":      func(d Dir) error { _ = os.RemoveAll(string(d)); return os.Symlink(os.TempDir(), string(d)) },
	} {
		d := Dir(filepath.Join(t.TempDir(), "state"))
		if err := d.Add(t.Context(), answers(1)); err != nil {
			t.Fatal(err)
		}
		if err := harm(d); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Load(); err == nil {
			t.Errorf("%s: was read", name)
		}
		if err := d.Add(t.Context(), answers(1)); err == nil {
			t.Errorf("%s: was written", name)
		}
	}
}

// BenchmarkDir keeps 100,000 answers and reads them again.
func BenchmarkDir(b *testing.B) {
	c := answers(100_000)
	d := Dir(filepath.Join(b.TempDir(), "state"))
	for b.Loop() {
		if err := d.Add(b.Context(), c); err != nil {
			b.Fatal(err)
		}
		if got, err := d.Load(); err != nil || got.Len() != c.Len() {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(written(f, answers(2)))
	f.Add(`{"schema":1,"answers":[]}`)
	f.Add(`{"schema":1,"answers":[{"at":"192.0.2.1:80","mss":1,"probed_at":"2026-05-04T03:02:01Z"},3,{"at":"[2001:db8::1]:80","wscale":14,"probed_at":"2026-05-04T03:02:01Z"}]}`)
	f.Add(`{"schema":1,"answers":[`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for k, a := range c.answers {
			if k.At.Port() == 0 || a.MSS != nil && *a.MSS < 88 || a.WScale != nil && *a.WScale > 14 || a.ProbedAt.IsZero() {
				t.Errorf("%+v: %+v", k, a)
			}
		}
		again, err := Parse(strings.NewReader(written(t, c)))
		if err != nil || again.Len() != c.Len() || again.Dropped != 0 {
			t.Fatal(fmt.Sprint(err), again.Len(), c.Len(), again.Dropped)
		}
	})
}
