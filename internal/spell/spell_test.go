package spell

import "testing"

func TestDistance(t *testing.T) {
	t.Parallel()
	for pair, want := range map[[2]string]int{
		{"", ""}: 0, {"a", ""}: 1, {"", "abc"}: 3, {"abc", "abc"}: 0, {"kitten", "sitting"}: 3, {"flaw", "lawn"}: 2, {"ab", "ba"}: 2,
	} {
		if got := distance(pair[0], pair[1]); got != want || distance(pair[1], pair[0]) != want {
			t.Errorf("%q: %d, want %d", pair, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"wscal": "wscale", "sak_perm": "sack_perm", "": "", "frobnicate": ""} {
		if got := Nearest(word, []string{"mss", "wscale", "sack_perm"}); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
