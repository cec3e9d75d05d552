package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sysctl reads a kernel setting of the host, such as "net.ipv4.ip_forward". The value comes without the final
// newline. A key with slashes is taken as a path below /proc/sys, for interface names with dots.
func (h *Host) Sysctl(key string) (string, error) {
	var value []byte
	err := h.Do(func() (err error) {
		value, err = os.ReadFile(sysctlPath(key))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("host %s: sysctl %s: %w", h.name, key, err)
	}
	return strings.TrimSuffix(string(value), "\n"), nil
}

// SetSysctl writes a kernel setting of the host. Only settings below net/ belong to a host; any other key is
// refused, since it would change the machine.
func (h *Host) SetSysctl(key, value string) error {
	if err := h.Do(func() error { return writeSysctl(key, value) }); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return nil
}

func writeSysctl(key, value string) error {
	path := sysctlPath(key)
	if !strings.HasPrefix(path, "/proc/sys/net/") {
		return fmt.Errorf("sysctl %s: not a setting of a network namespace", key)
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return filepath.Join("/proc/sys", key)
}
