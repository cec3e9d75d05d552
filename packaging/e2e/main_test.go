//go:build packages

// Package e2e installs, upgrades and removes the packages, and boots them, in roots of their own: make test-packages.
// It needs root, and the distribution's mirror the first time.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

var world *lab.World

// envBuild tells the inner process the directory of what was built, envRoot the archive of a distribution's root.
const (
	envBuild = "SYNPROXYCTL_PACKAGES_BUILD"
	envRoot  = "SYNPROXYCTL_PACKAGES_ROOT"
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if _, inside := os.LookupEnv(envBuild); !inside {
		if os.Geteuid() != 0 {
			return fail(errors.New("the roots of other systems need root; hint: run it with sudo"))
		}
		dir, err := os.MkdirTemp("", "synproxyctl-packages-")
		if err != nil {
			return fail(err)
		}
		defer os.RemoveAll(dir)
		// Before the isolation, which has no network.
		if err := errors.Join(build(dir), archive()); err != nil {
			return fail(err)
		}
		os.Setenv(envBuild, dir)
	}
	w, code, err := lab.Isolate(context.Background())
	if err != nil {
		return fail(err)
	}
	if w == nil {
		return code
	}
	world = w
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "packages:", err)
	return 1
}

// build makes the packages of two versions, and the first of them once more from a copy of the sources elsewhere.
func build(dir string) error {
	elsewhere := filepath.Join(dir, "another place")
	const script = `
cd ../..
export SOURCE_DATE_EPOCH=1700000000 COMMIT=0123456789abcdef0123456789abcdef01234567
mkdir -p "$2"
git ls-files -z | tar -c --null -T - | tar -x -C "$2"
DIST=$1/one VERSION=0.8.0 scripts/dist
DIST=$1/two VERSION=0.9.0-rc.1 scripts/dist "$3"
cd "$2"
sleep 1.1 # another second
umask 077
DIST=$1/again VERSION=0.8.0 TZ=Asia/Tokyo GOFLAGS=-race GOAMD64=v3 scripts/dist
`
	out, err := exec.Command("bash", "-euc", script, "build", dir, elsewhere, runtime.GOARCH).CombinedOutput()
	if err != nil {
		return fmt.Errorf("scripts/dist: %w\n%s", err, out)
	}
	return nil
}

// archive makes the root of this machine's distribution once, and keeps it.
func archive() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return err
	}
	suite := "bookworm"
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok && name != "" {
			suite = name
		}
	}
	path := filepath.Join(cache, "synproxyctl", "root-2-"+suite+".tar")
	os.Setenv(envRoot, path)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	const mode = 0o755
	if err := os.MkdirAll(filepath.Dir(path), mode); err != nil {
		return err
	}
	fresh := strings.TrimSuffix(path, ".tar") + ".new.tar"
	out, err := exec.Command("mmdebstrap", "--mode=root", "--variant=minbase",
		"--include=systemd,systemd-sysv,iptables,nftables,iproute2,procps", suite, fresh).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mmdebstrap %s: %w\n%s", suite, err, out)
	}
	return os.Rename(fresh, path)
}
