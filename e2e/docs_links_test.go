package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	docLink    = regexp.MustCompile(`\]\(([^):#]*)(#[^)]*)?\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	docNoSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestDocLinks follows every link from one document of the repository to another, to the heading that it names.
func TestDocLinks(t *testing.T) {
	for _, pattern := range append([]string{"CONTRIBUTING.md"}, documents...) {
		paths, err := filepath.Glob("../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, link := range docLink.FindAllStringSubmatch(string(text), -1) {
				to := path
				if link[1] != "" {
					to = filepath.Join(filepath.Dir(path), link[1])
				}
				there, err := os.ReadFile(to)
				if _, missing := os.Stat(to); missing != nil {
					t.Errorf("%s: %s leads nowhere", path, link[0])
				} else if link[2] != "" && (err != nil || !headings(string(there))[link[2][1:]]) {
					t.Errorf("%s: %s: there is no such heading", path, link[0])
				}
			}
		}
	}
}

// headings returns the anchors that a Markdown page has on GitHub.
func headings(text string) map[string]bool {
	all := map[string]bool{}
	for _, h := range docHeading.FindAllStringSubmatch(text, -1) {
		all[strings.ReplaceAll(docNoSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return all
}
