// Package systemd holds the units that packages install, for the command that
// installs them where there is no package.
package systemd

import "embed"

// Units are the units by their file names.
//
//go:embed *.service
var Units embed.FS
