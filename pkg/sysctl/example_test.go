package sysctl_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// SYNPROXY needs nf_conntrack_tcp_loose=0. The directory stands for
// [sysctl.Default], which takes root to write.
func Example() {
	dir, err := os.MkdirTemp("", "sysctl")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	key := "net.netfilter.nf_conntrack_tcp_loose"
	file := filepath.Join(dir, "net/netfilter/nf_conntrack_tcp_loose")
	_ = os.MkdirAll(filepath.Dir(file), 0o755)
	_ = os.WriteFile(file, []byte("1\n"), 0o644)

	tree := sysctl.FS(dir)
	plan, err := tree.Plan([]sysctl.Setting{{Key: key, Value: "0"}})
	fmt.Println(plan, err)

	done, err := tree.Apply(plan)
	now, _ := tree.Get(key)
	fmt.Println(now, err)

	outcomes, err := tree.Restore(done)
	fmt.Println(outcomes[0].State, outcomes[0].Now, err)
	// Output:
	// [{net.netfilter.nf_conntrack_tcp_loose 1 0}] <nil>
	// 0 <nil>
	// restored 1 <nil>
}
