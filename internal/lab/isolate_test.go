package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// envExit makes the test binary isolate itself and exit with the value, instead of running tests.
const envExit = "SYNPROXYCTL_LAB_TEST_EXIT"

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	value, ok := os.LookupEnv(envExit)
	if !ok {
		return m.Run()
	}
	w, code, err := Isolate(context.Background())
	if err != nil {
		return 70
	}
	if w == nil {
		return code
	}
	code, err = strconv.Atoi(value)
	if err != nil {
		return 71
	}
	return code
}

// TestIsolateExitCode stands here, outside any isolation: the e2e tests run inside, so that an exit code which got
// lost on the way would make their failures look like success.
func TestIsolateExitCode(t *testing.T) {
	for _, want := range []int{0, 1, 42} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), envExit+"="+strconv.Itoa(want), "GORACE=atexit_sleep_ms=0")
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("the inner process exited with %d, and the outer with %d", want, got)
		}
	}
}

func TestExitCodeOfASignal(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "kill -KILL $$")
	_ = cmd.Run() // the signal
	if got := exitCode(cmd.ProcessState); got != 128+9 {
		t.Errorf("got %d, want 137", got)
	}
}
