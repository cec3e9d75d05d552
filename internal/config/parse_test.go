package config

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// messages returns the faults of an error, each as PLACE: PROBLEM (ADVICE).
func messages(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var fs *Faults
	if !errors.As(err, &fs) || len(fs.List) == 0 {
		t.Fatalf("not faults: %v", err)
	}
	if fs.Hint() == "" {
		t.Errorf("%v: no hint", err)
	}
	var list []string
	for _, f := range fs.List {
		if f.Advice == "" || f.Code == "" {
			t.Errorf("%v: advice %q, code %q", f, f.Advice, f.Code)
		}
		list = append(list, f.Error()+" ("+f.Advice+")")
	}
	return list
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, s := range corpus {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c, err := Parse("FILE", []byte(s.text))
			got := messages(t, err)
			if (c == nil) != (err != nil) {
				t.Fatalf("%v and %v", c, err)
			}
			if len(got) != len(s.want) {
				t.Fatalf("%q, want %q", got, s.want)
			}
			for i, want := range s.want {
				place, text := "FILE:", want
				if i := strings.Index(want, ": "); i > 0 && want[0] >= '0' && want[0] <= '9' {
					place, text = "FILE:"+want[:i+2], want[i+2:]
				}
				if !strings.HasPrefix(got[i], place) || !strings.Contains(got[i], text) {
					t.Errorf("%q, want %q", got[i], want)
				}
			}
		})
	}
}

// plain returns a tree as a program that knows no places sees it.
func plain(n ast.Node) any {
	switch n := n.(type) {
	case *ast.MappingNode:
		m := map[string]any{}
		for _, v := range n.Values {
			m[v.Key.GetToken().Value] = plain(v.Value)
		}
		return m
	case *ast.SequenceNode:
		list := []any{}
		for _, v := range n.Values {
			list = append(list, plain(v))
		}
		return list
	case ast.ScalarNode:
		return n.GetValue()
	}
	return nil
}

// TestSchemaAgrees lets the JSON Schema judge what the parser judges.
func TestSchemaAgrees(t *testing.T) {
	t.Parallel()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(Schema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	judge := func(text string) error {
		root, err := tree("FILE", []byte(text))
		if err != nil {
			return err
		}
		asJSON, err := json.Marshal(plain(root))
		if err != nil {
			return err
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(asJSON)))
		if err != nil {
			return err
		}
		return schema.Validate(value)
	}
	for _, s := range append(corpus, sample{name: "example", text: Example}) {
		if s.beyond {
			continue
		}
		if err := judge(s.text); (err == nil) != (len(s.want) == 0) {
			t.Errorf("%s: the schema says %v, the parser %q", s.name, err, s.want)
		}
	}
}

func TestParseValues(t *testing.T) {
	t.Parallel()
	c, err := Parse("FILE", []byte(`
version: 1
services:
  - name: web
    destinations: [192.0.2.1, www.example.com]
    ports: [443, 8000-8001]
    targets: ["192.0.2.2:25", "@mail.txt"]
    hook: auto
    options: {mss: 1400}
  - targets: 192.0.2.3:22
    interfaces: []
    options: probe
    to: "[2001:db8::1]:22"
include: "lists/fleet.txt"
defaults:
  hook: input
  interfaces: [eth0]
  first: server
  options: {mss: 1460, timestamps: false}
  backend: iptables-legacy
  warmup: 90s
  rate: 1000
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Backend != "iptables-legacy" || *c.Warmup != 90*time.Second || c.Rate != 1000 || len(c.Services) != 3 {
		t.Errorf("%+v", c)
	}
	var got []string
	for _, s := range c.Services {
		text, err := json.Marshal(s.Settings)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s.Name+"@"+s.Place.String(), string(text))
		for _, d := range s.destinations {
			ports, err := json.Marshal(d.Ports)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, d.place.String()+" "+d.Text+" "+string(ports))
		}
		for _, l := range s.lists {
			got = append(got, l.place.String()+" "+l.path)
		}
	}
	want := []string{
		"web@FILE:4:5",
		`{"Interfaces":["eth0"],"Hook":"","Mode":"","First":"server","To":"","ProbeAt":"","MSS":1400,"WScale":null,"SACKPerm":null,"Timestamps":false}`,
		"FILE:5:20 192.0.2.1 [443,8000,8001]", "FILE:5:31 www.example.com [443,8000,8001]", "FILE:7:15 192.0.2.2:25 [25]", "FILE:7:31 mail.txt",
		"@FILE:10:5",
		`{"Interfaces":null,"Hook":"input","Mode":"","First":"server","To":"[2001:db8::1]:22","ProbeAt":"","MSS":null,"WScale":null,"SACKPerm":null,"Timestamps":null}`,
		"FILE:10:14 192.0.2.3:22 [22]",
		"@FILE:14:10",
		`{"Interfaces":["eth0"],"Hook":"input","Mode":"","First":"server","To":"","ProbeAt":"","MSS":1460,"WScale":null,"SACKPerm":null,"Timestamps":false}`,
		"FILE:14:10 lists/fleet.txt",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFaultsAreBounded(t *testing.T) {
	t.Parallel()
	_, err := Parse("FILE", []byte("version: 1\nservices:\n"+strings.Repeat("  - {}\n", 100)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxFaults+1 || lines[maxFaults] != "and 80 more" || strings.Contains(lines[1], "(") || !strings.Contains(lines[0], "(") {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}

func TestExample(t *testing.T) {
	t.Parallel()
	c, err := Parse("example.yaml", []byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	targets, names, err := c.Check()
	if err != nil || targets != 32 || names != 0 {
		t.Errorf("%d targets, %d names, %v", targets, names, err)
	}
	for _, key := range []string{"version", "defaults", "services", "include", "interfaces", "hook", "mode", "first", "options", "ports", "backend", "warmup", "rate", "name", "destinations", "targets", "mss", "wscale", "sack_perm", "timestamps", "to", "probe_at"} {
		if !strings.Contains(Example, key+":") {
			t.Errorf("the example does not show %s", key)
		}
	}
}

// TestDocumented keeps the examples of docs/configuration.md and README.md right.
func TestDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "```yaml\n"+Example+"```\n") {
		t.Error("docs/configuration.md does not show the example as it is")
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(text)+string(readme), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		if _, err := Parse("docs", []byte(block)); err != nil {
			t.Errorf("%v in\n%s", err, block)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range corpus {
		if len(s.text) < 1000 {
			f.Add(s.text)
		}
	}
	f.Add(Example)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("FILE", []byte(text))
		if (c == nil) != (err != nil) {
			t.Fatalf("%v and %v", c, err)
		}
		lines := strings.Count(text, "\n") + 1
		if err != nil {
			messages(t, err)
			var fs *Faults
			errors.As(err, &fs)
			for _, f := range fs.List {
				if f.File != "FILE" || f.Line < 1 || f.Line > lines+1 || f.Column < 1 {
					t.Errorf("%v: no such place", f)
				}
			}
			return
		}
		if len(c.Services) == 0 {
			t.Error("no services")
		}
		if _, _, err := c.Check(); err != nil {
			messages(t, err)
		}
	})
}
