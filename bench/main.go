// Command bench measures synproxyctl against its peers: nothing but SYN cookies, the recipe of the man page by
// iptables-legacy, iptables-nft and nft, FireHOL, nmap and hping3. It runs itself again in namespaces of its own, where
// each contender protects a network of its own, and takes turns between them, so that a figure is a ratio of one run.
// Floods are bounded and cannot leave these namespaces.
//
// It needs root, since the generator is a BPF program, and at least two CPUs: one sends, one receives.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if isTimer() {
		if err := timer(args[1:], os.Stdout); err != nil {
			return fail(err, 1)
		}
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	o, err := parseOptions(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return fail(err, 2)
	}
	if o.render {
		if err := render(o, os.Stderr); err != nil {
			return fail(err, 1)
		}
		return 0
	}
	// Before the isolation, which has no network: the build may have to fetch modules.
	end, err := build(ctx, o.program)
	if err != nil {
		return fail(err, 1)
	}
	defer end()
	world, code, err := lab.Isolate(ctx)
	if err != nil {
		return fail(err, 1)
	}
	if world == nil {
		return code
	}
	if err := measure(ctx, world, o, os.Stderr); err != nil {
		return fail(err, 1)
	}
	return 0
}

func fail(err error, code int) int {
	fmt.Fprintln(os.Stderr, "bench:", err)
	return code
}
