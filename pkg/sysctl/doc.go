// Package sysctl reads, plans, writes and gives back kernel settings below
// /proc/sys, or below any other directory in a test.
//
// The order of use is [FS.Plan], which tells what differs and touches nothing;
// [FS.Apply], which writes each difference and reads it back; and [FS.Restore],
// which undoes only what is still as Apply left it. A [Change] holds all that
// Restore needs and survives JSON, so that it can wait in a file between two
// runs of a program.
//
// Keys are those of sysctl(8): net.ipv4.tcp_syncookies, or
// net.ipv4.conf.eth0/100.rp_filter for an interface whose name has a dot, or
// the same with the slash as separator, net/ipv4/conf/eth0.100/rp_filter.
//
// Settings below net belong to a network namespace, and the kernel shows those
// of the thread that opens the file (fs/proc/proc_sysctl.c, net/sysctl_net.c).
// A program that changes the namespace of a thread must call
// [runtime.LockOSThread] first and call this package from the same goroutine.
//
// The package does not load kernel modules, does not make a setting survive a
// reboot, and compares values as lists of words: two values that differ only in
// white space are the same to it.
package sysctl
