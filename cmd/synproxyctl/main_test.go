package main

import (
	"os"
	"testing"
)

// envProgram has the test binary be the program under test.
const envProgram = "SYNPROXYCTL_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}
