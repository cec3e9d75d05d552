package sysctl

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyPath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ key, want string }{
		{"net.ipv4.tcp_syncookies", "net/ipv4/tcp_syncookies"},
		{"net/ipv4/tcp_syncookies", "net/ipv4/tcp_syncookies"},
		{"net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"},
		{"net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"},
		{"net.ipv4.conf.ppp-é.mtu", "net/ipv4/conf/ppp-é/mtu"},
		{"single", "single"},
	} {
		got, err := keyPath(tt.key)
		if err != nil || got != tt.want {
			t.Errorf("keyPath(%q) = %q, %v; want %q", tt.key, got, err, tt.want)
		}
	}
}

func TestKeyPathRefuses(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", ".", "/", "..", "/etc/passwd", ".net.ipv4", "net.", "net..ipv4", "net//ipv4",
		"net/../../etc/passwd", "net/./ipv4", "net.//.ipv4", "net.ipv4./.x", "net/ipv4/",
		"net.ipv4 .x", "net.ipv4\n", "net\x00ipv4", "net.\xff", strings.Repeat("x", 256),
	} {
		got, err := keyPath(key)
		if !errors.Is(err, ErrKey) {
			t.Errorf("keyPath(%q) = %q, %v; want ErrKey", key, got, err)
		}
		if _, err := FS(t.TempDir()).Get(key); !errors.Is(err, ErrKey) {
			t.Errorf("Get(%q): %v; want ErrKey", key, err)
		}
	}
}

func FuzzKeyPath(f *testing.F) {
	for _, seed := range []string{
		"net.ipv4.tcp_syncookies", "net/ipv4/conf/eth0.100/rp_filter", "net.ipv4.conf.eth0/100.rp_filter",
		"net.//.x", "../x", "/x", "a..b", "", "\xff", "a b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		path, err := keyPath(key)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatalf("keyPath(%q): %v is not ErrKey", key, err)
			}
			return
		}
		if !filepath.IsLocal(path) || filepath.Clean(path) != path || path == "." {
			t.Fatalf("keyPath(%q) = %q, which is not a clean path inside the root", key, path)
		}
		// Where the slash comes first the key is the path, so a path that has
		// one is a key for itself.
		if slash := strings.IndexAny(path, "./"); slash >= 0 && path[slash] == '/' {
			if again, err := keyPath(path); err != nil || again != path {
				t.Fatalf("keyPath(%q) = %q, but that as a key is %q, %v", key, path, again, err)
			}
		}
	})
}
