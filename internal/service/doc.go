// Package service writes, enables and removes the units of systemd that apply and
// look after the protection. It asks systemd through systemctl, which also works
// on the root directory of a system that does not run.
//
// What it writes bears a mark in its first line, and only what bears it is ever
// replaced or removed. It knows nothing of what is protected.
package service
