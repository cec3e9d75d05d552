package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/metrics"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// maxServicesFlag is a flag of whatever tells metrics.
func maxServicesFlag() cli.Flag {
	return &cli.IntFlag{Name: "max-services", Value: 1000, Usage: "metrics: up to how many services have series of their own, 0 to 100000; if there are more, only the totals are told"}
}

// reader prepares what reads metrics.
func reader(c *cli.Context) (*metrics.Reader, error) {
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	const most = 100_000
	n := c.Int("max-services")
	if n < 0 || n > most {
		return nil, outOfRange("max-services", n, "0 to 100000")
	}
	return &metrics.Reader{Host: h, Version: version, MaxServices: n}, nil
}

// runStatusMetrics writes the status as metrics to a file, or to standard output.
func runStatusMetrics(c *cli.Context) (*answer, error) {
	path := c.String("prometheus")
	if path == "-" && c.Bool("json") {
		return nil, protect.Errorf(protect.Usage, "give a file, or leave out --json", "--prometheus - and --json: standard output cannot be both")
	}
	r, err := reader(c)
	if err != nil {
		return nil, err
	}
	s, uncounted, err := r.Read(c.Context)
	if err == nil && uncounted != nil {
		err = fmt.Errorf("how far the counters had got: %w", uncounted)
	}
	if err != nil {
		return nil, err
	}
	if path == "-" {
		return &answer{text: func(w io.Writer, _ paint) { _ = metrics.WriteText(w, s) }}, nil // the writer remembers its errors
	}
	if err := replaceMetrics(path, s); err != nil {
		return nil, err
	}
	// A timer need not hear of it.
	return &answer{result: s.Status, text: func(io.Writer, paint) {}}, nil
}

// replaceMetrics writes a file that node_exporter may read at any time: there is
// the old or the new one, and if anything fails it is the old one.
func replaceMetrics(path string, s metrics.Snapshot) (err error) {
	fi, err := os.Lstat(path) // what is replaced is the link, and /dev/stdout is one
	switch {
	case err == nil && !fi.Mode().IsRegular():
		return protect.Errorf(protect.Usage, "give a plain file, which is replaced, or - for standard output", "--prometheus %s: not a plain file", quote(path))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return badMetricsFile(path, err)
	}
	const all = 0o644 // node_exporter has a user of its own
	f, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(all), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return badMetricsFile(path, err)
	}
	defer func() { _ = f.Cleanup() }()
	if err = metrics.WriteText(f, s); err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err != nil {
		return badMetricsFile(path, err)
	}
	return nil
}

func badMetricsFile(path string, err error) error {
	code, hint := protect.Failed, "a file that was there is as it was; see whether its directory is there and not full"
	if errors.Is(err, fs.ErrPermission) {
		code, hint = protect.Permission, "a file that was there is as it was; run it as a user who may write to its directory"
	}
	return protect.Errorf(code, hint, "--prometheus %s: %w", quote(path), err)
}
