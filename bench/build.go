package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// envBuild tells the inner process the path of the program under test.
const envBuild = "SYNPROXYCTL_BENCH_BUILD"

// build compiles the program under test as `make build` does, unless one is given or this is the inner process. The function that it
// returns removes what was built.
func build(ctx context.Context, given string) (func(), error) {
	if _, inside := os.LookupEnv(envBuild); inside {
		return func() {}, nil
	}
	if given != "" {
		path, err := filepath.Abs(given)
		if err != nil {
			return nil, err
		}
		return func() {}, os.Setenv(envBuild, path)
	}
	dir, err := os.MkdirTemp("", "synproxyctl-bench-")
	if err != nil {
		return nil, err
	}
	end := func() { os.RemoveAll(dir) }
	path := filepath.Join(dir, "synproxyctl")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "./cmd/synproxyctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		end()
		return nil, fmt.Errorf("go build ./cmd/synproxyctl: %w; hint: run this in the root of the repository\n%s", err, out)
	}
	return end, os.Setenv(envBuild, path)
}

// program is the path of the program under test.
func program() string { return os.Getenv(envBuild) }
