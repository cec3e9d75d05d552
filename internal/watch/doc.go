// Package watch keeps what is applied as it should be: it compares the rules and
// asks the backends again and again, and mends, follows or tells by policy.
//
// What decides is pure: [Rules], [Backends] and [Temper] are told what was seen
// and when, and say what to do; they have no clock, no kernel and no network.
// [Daemon] is the thin loop around them: several activities on one clock, of
// which one at a time may change something.
//
// The package does not find out what is wrong, nor how to change it: that is
// internal/protect's. It knows neither flags nor files of configuration.
package watch
