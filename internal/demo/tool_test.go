package demo

import (
	"errors"
	"testing"
)

func TestDecode(t *testing.T) {
	var v Verify
	if err := decode("verify", []byte(`{"schema":1,"command":"verify","ok":true,"findings":[]}`), &v); err != nil || !v.OK {
		t.Errorf("got %+v, %v", v, err)
	}
	var inside *ToolError
	err := decode("apply 10.0.0.1:80", []byte(`{"error":{"code":"unsupported","message":"no program","hint":"install it"}}`), &v)
	if !errors.As(err, &inside) || inside.Code != "unsupported" || inside.Hint() != "install it" {
		t.Errorf("got %v", err)
	}
	if want := "synproxyctl apply 10.0.0.1:80: no program"; err != nil && err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	for _, out := range []string{"", "panic: at the disco", `{"ok":1}`, `{"ok":true}{"ok":true}`} {
		if err := decode("verify", []byte(out), &v); err == nil || errors.As(err, &inside) {
			t.Errorf("output %q: got %v, want a plain error", out, err)
		}
	}
}
