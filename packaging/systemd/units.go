// Package systemd holds the units that packages install, for the command that
// installs them where there is no package. It does nothing with them.
package systemd

import "embed"

// Units are the units by their file names, and modules-load.conf.
//
//go:embed *.service *.socket *.timer modules-load.conf
var Units embed.FS
