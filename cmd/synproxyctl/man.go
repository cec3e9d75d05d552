package main

import (
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/cache"
	"github.com/synproxyctl/synproxyctl/internal/config"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// configPath is where packages put the configuration.
const configPath = "/etc/synproxyctl/config.yaml"

// manCommand prints the manual pages, which packages contain: 8, of the
// program, and 5, of its configuration.
var manCommand = command{name: "man", args: "SECTION", words: []string{"5", "8"}, hidden: true, do: func(e env, c *cli.Context) (*answer, error) {
	info, _ := debug.ReadBuildInfo()
	day := buildOf(info).day()
	var page string
	var err error
	switch c.Args().First() {
	case "5":
		page, err = configPage(day)
	case "8":
		page = programPage(day, e.known)
	default:
		err = protect.Errorf(protect.Usage, "give 5 or 8", "man: which section?")
	}
	if err != nil {
		return nil, err
	}
	return &answer{result: struct{}{}, text: func(w io.Writer, _ paint) { _, _ = io.WriteString(w, page) }}, nil
}}

// programPage is synproxyctl(8).
func programPage(day string, all []command) string {
	all = slices.DeleteFunc(slices.Clone(all), func(c command) bool { return c.hidden })
	r := &roff{}
	r.page("synproxyctl", "8", day)
	r.section("name")
	r.words("synproxyctl - protect TCP services from SYN floods with the kernel's SYNPROXY")
	r.section("synopsis")
	r.b.WriteString(".B synproxyctl\n.I COMMAND\n[\\fIFLAG\\fR...] [\\fITARGET\\fR...]\n")
	r.section("description")
	r.text(`The kernel's SYNPROXY answers SYNs with cookies, so that a flood reaches neither the server nor the connection tracking table.
synproxyctl asks the server for its TCP options, applies settings and rules that fit them, reads them back, shows how it goes, and takes them away without a trace.
The kernel alone is the data path: nothing of synproxyctl needs to run.

Flags stand before or behind the other arguments.
Every command but the purely local ones needs CAP_NET_ADMIN and CAP_NET_RAW; see docs/security.md.`)
	r.section("commands")
	for _, c := range all {
		r.command(c)
	}
	r.section("flags of every command")
	r.flags(shared())
	r.tagged("--help, -h", "")
	r.words("show help")
	r.section("exit status")
	for _, status := range exits {
		r.tagged(status.code, "")
		r.words(status.meaning)
	}
	r.section("files")
	for _, file := range files {
		r.tagged(file.path, "")
		r.words(file.about)
	}
	r.section("examples")
	r.lines(overviewExamples)
	r.section("see also")
	r.words("synproxyctl-config(5), iptables-extensions(8), nft(8), systemd.unit(5)")
	return r.b.String()
}

// command writes all that is known of a command.
func (r *roff) command(c command) {
	r.sub("synproxyctl " + strings.TrimSpace(c.name+" "+c.args))
	r.words(sentence(c.usage))
	if help := strings.TrimSpace(c.help); help != "" {
		r.b.WriteString(".PP\n")
		r.text(help)
	}
	r.flags(c.flags)
	if c.examples != "" {
		r.b.WriteString(".PP\n")
		r.lines(c.examples)
	}
}

func (r *roff) flags(flags []cli.Flag) {
	for _, f := range flags {
		names := "--" + f.Names()[0]
		for _, alias := range f.Names()[1:] {
			names += ", -" + alias
		}
		r.tagged(names, valueOf(f))
		r.words(withDefault(f))
	}
}

// exits is what exit statuses mean.
var exits = []struct{ code, meaning string }{
	{"0", "done, or nothing to do"},
	{"1", "failed; whatever was begun has been rolled back"},
	{"2", "bad usage or configuration; nothing was touched"},
	{"3", "the honest no: verify found drift, probe got no usable answer"},
	{"4", "not permitted; the error names the capability"},
	{"5", "not supported here, or a conflict"},
	{"6", "failed, and the rollback failed too: the error says exactly what is left"},
	{"130", "interrupted; rolled back"},
}

var files = []struct{ path, about string }{
	{configPath, "what the units protect; see synproxyctl-config(5)"},
	{cache.Dir(protect.StateDir).Path(), "what backends have answered, for --cached and --max-age; it may be deleted at any time"},
	{protect.RunDir, "what is to be given back by revert; it vanishes with a reboot, as the rules do"},
}

// configPage is synproxyctl-config(5), of the schema's descriptions.
func configPage(day string) (string, error) {
	keys, err := config.Keys()
	if err != nil {
		return "", err
	}
	r := &roff{}
	r.page("synproxyctl-config", "5", day)
	r.section("name")
	r.words("synproxyctl-config - what synproxyctl protects")
	r.section("synopsis")
	r.b.WriteString(".B " + escape(configPath) + "\n")
	r.section("description")
	r.text(`A configuration is YAML. "synproxyctl apply -c FILE" protects exactly what it says: what is no longer in it is not protected any more.
"synproxyctl config check FILE" tells every fault with line and column, needs no rights and touches nothing.

What a service says wins over the defaults, key by key.
A list of one can be written without brackets.
YAML needs quotes around what begins with @ or [.
Anchors, aliases, tags, blocks of text and tabs are refused.
So is a file that everybody may write to.`)
	where := "nowhere yet"
	for _, k := range keys {
		if k.Where != where {
			where = k.Where
			r.section(map[string]string{"": "keys of the file", "defaults": "keys of defaults", "services": "keys of each of the services", "options": "keys of options"}[where])
		}
		r.tagged(k.Name, k.Takes)
		r.words(sentence(k.About))
	}
	r.section("example")
	r.lines(config.Example)
	r.section("see also")
	r.words("synproxyctl(8)")
	return r.b.String(), nil
}
