// Package config reads the configuration file: which services are to be
// protected, and how.
//
// [Parse] is pure: it turns bytes into a [Config] in which everything knows its
// place, or into all that is wrong with them, each with file, line and column.
// [Load] also reads the file and the lists of targets that it names.
// [Config.Expand] then resolves the names and returns one [Item] for each
// address and port.
//
// The package knows neither the kernel nor the command line, and asks nobody
// but the resolver that it is given.
package config
