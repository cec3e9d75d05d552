package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fireholDefaults is what FireHOL reads first. Its package's own says that nothing shall be started; IPv6 is off,
// since no contender protects it here.
const fireholDefaults = "START_FIREHOL=YES\nENABLE_IPV6=0\nFIREHOL_LOAD_KERNEL_MODULES=0\n"

// fireholConfig is a machine that forwards everything, with a SYNPROXY before each service, in the words of
// firehol-synproxy(5).
func (s *site) fireholConfig(services []int) string {
	var b strings.Builder
	b.WriteString("version 6\n")
	for _, i := range services {
		fmt.Fprintf(&b, "synproxy4 forward inface any dst %s dport %d accept\n", service(i), s.port)
	}
	b.WriteString("interface any local\n\tpolicy accept\nrouter routed inface any outface any\n\tpolicy accept\n")
	return b.String()
}

// startFirehol starts FireHOL with the site's configuration.
func startFirehol(ctx context.Context, s *site) error {
	path, err := s.fireholFile("firehol.conf", s.services())
	if err != nil {
		return err
	}
	return s.feed(ctx, "", "firehol", path, "start")
}

// fireholFile writes the configuration.
func (s *site) fireholFile(name string, services []int) (string, error) {
	if err := hideFirehol(); err != nil {
		return "", err
	}
	dir, err := s.scratch()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(s.fireholConfig(services)), 0o600)
}

// hideFirehol puts directories of our own over those of FireHOL, in the mount namespace of lab.Isolate, which nobody
// outside sees. Twice is once.
func hideFirehol() error {
	const own, defaults = "/run/bench/firehol", "/etc/default/firehol"
	if _, err := os.Stat(own); err == nil {
		return nil
	}
	if err := os.MkdirAll(own, 0o700); err != nil {
		return err
	}
	file := filepath.Join(own, "defaults")
	if err := os.WriteFile(file, []byte(fireholDefaults), 0o600); err != nil {
		return err
	}
	if err := unix.Mount(file, defaults, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cover %s: %w", defaults, err)
	}
	for path, copied := range map[string]string{"/etc/firehol": "services", "/var/spool": ""} {
		if err := cover(path, copied); err != nil {
			return err
		}
	}
	return nil
}

// cover mounts an empty directory over path, with copies of the files in one of its subdirectories, if any.
func cover(path, subdirectory string) error {
	files := map[string][]byte{}
	if subdirectory != "" {
		entries, err := os.ReadDir(filepath.Join(path, subdirectory))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			name := filepath.Join(path, subdirectory, e.Name())
			if files[name], err = os.ReadFile(name); err != nil {
				return err
			}
		}
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	for name, content := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o600)); err != nil {
			return err
		}
	}
	return nil
}
