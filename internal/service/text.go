package service

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/synproxyctl/synproxyctl/packaging/systemd"
)

// The units.
const (
	Boot     = "synproxyctl.service"
	Check    = "synproxyctl-check.timer"
	Watch    = "synproxyctl-watch.service"
	Exporter = "synproxyctl-exporter.service"
	// Socket is for administrators who want the exporter elsewhere than on
	// loopback; only Remove knows it.
	Socket = "synproxyctl-exporter.socket"
)

// What the packages' units say.
const (
	// Program is where packages have the program.
	Program = "/usr/sbin/synproxyctl"
	// Config is where packages have the configuration.
	Config = "/etc/synproxyctl/config.yaml"

	tell = " --rules report --options report"
)

// mark is the first line of what we write.
const mark = "# Written by: synproxyctl service install. Removed by: synproxyctl service remove.\n"

// Wish is what the units shall do.
type Wish struct {
	Program string // absolute
	Config  string // absolute
	Mend    bool   // the timer mends what it finds, and follows the backends
}

// file is a file that is wanted below a root directory.
type file struct {
	path   string   // where an administrator's own stands
	vendor []string // where a package's stands
	text   string   // without the mark
}

// files returns what a wish wants; pure but for what is embedded.
func (w Wish) files() ([]file, error) {
	for _, path := range []string{w.Program, w.Config} {
		if !filepath.IsAbs(path) || strings.ContainsAny(path, " \t\r\n%$'\"\\;") {
			return nil, fmt.Errorf("%w: %q", ErrPath, path)
		}
	}
	change := []string{Program, w.Program, Config, w.Config}
	if w.Mend {
		change = append(change, tell, "")
	}
	if private(w.Program) || private(w.Config) {
		change = append(change, "ProtectHome=yes", "ProtectHome=read-only")
	}
	edit := strings.NewReplacer(change...)
	entries, err := fs.ReadDir(systemd.Units, ".")
	if err != nil {
		return nil, err
	}
	var list []file
	for _, e := range entries {
		text, err := fs.ReadFile(systemd.Units, e.Name())
		if err != nil {
			return nil, err
		}
		f := file{path: filepath.Join("etc/systemd/system", e.Name()), vendor: []string{filepath.Join("usr/lib/systemd/system", e.Name()), filepath.Join("lib/systemd/system", e.Name())}, text: edit.Replace(string(text))}
		if e.Name() == "modules-load.conf" {
			f.path, f.vendor = "etc/modules-load.d/synproxyctl.conf", []string{"usr/lib/modules-load.d/synproxyctl.conf"}
		}
		list = append(list, f)
	}
	return list, nil
}

// private reports whether a path is where ProtectHome hides what is there.
func private(path string) bool {
	for _, dir := range []string{"/home/", "/root/", "/run/user/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}
