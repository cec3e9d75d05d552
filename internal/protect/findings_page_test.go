package protect

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Every code of a finding has a heading in docs/findings.md, and every heading
// there is a code that some finding can have.
func TestFindingsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/findings.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^### (.+)$`).FindAllStringSubmatch(string(page), -1) {
		if told[m[1]] {
			t.Errorf("docs/findings.md has %s twice", m[1])
		}
		told[m[1]] = true
	}
	codes := slices.Concat(findingCodes(t), writtenCodes(t, "../watch"), writtenCodes(t, "../config"), writtenCodes(t, "../../cmd/synproxyctl"))
	slices.Sort(codes)
	codes = slices.Compact(codes)
	if len(codes) < 50 {
		t.Fatalf("only %d codes found in the sources: the search is broken", len(codes))
	}
	for _, code := range codes {
		if !told[code] {
			t.Errorf("docs/findings.md lacks a heading for %q", code)
		}
		delete(told, code)
	}
	for code := range told {
		t.Errorf("docs/findings.md has %q, which no finding can have", code)
	}
}

// findingCodes reads the codes that this package gives to finding, in whatever
// of the few ways in which it does.
func findingCodes(t *testing.T) []string {
	t.Helper()
	var codes []string
	own := constants(t, ".", "")
	for _, call := range callsOfFinding(t) {
		prefix, code := "", call.Args[1]
		if sum, ok := code.(*ast.BinaryExpr); ok {
			prefix, code = literal(sum.X), sum.Y
		}
		if conversion, ok := code.(*ast.CallExpr); ok {
			code = conversion.Args[0]
		}
		var values []string
		switch code := code.(type) {
		case *ast.BasicLit:
			values = []string{literal(code)}
		case *ast.Ident:
			values = []string{own[code.Name]}
		case *ast.SelectorExpr:
			switch {
			case prefix == "live-":
				values = valuesOf(constants(t, "../live", "Code"))
			case code.Sel.Name == "Verdict":
				values = slices.DeleteFunc(valuesOf(constants(t, "../../pkg/probe", "Verdict")), func(v string) bool { return v == "direct" })
			case code.Sel.Name == "Fault":
				values = valuesOf(constants(t, "../../pkg/rules", "Fault"))
			case code.Sel.Name == "Code": // of a firewall.Blocker
				for name, value := range constants(t, "../firewall", "") {
					if strings.HasPrefix(name, "Code") {
						values = append(values, value)
					}
				}
			}
		}
		if len(values) == 0 || slices.Contains(values, "") {
			t.Fatalf("a code of finding is written in a way that this test does not know: teach it (%T)", call.Args[1])
		}
		for _, v := range values {
			codes = append(codes, prefix+v)
		}
	}
	return codes
}

// writtenCodes reads the codes that another package writes into findings, and
// into the faults of a file, which "config check" tells as findings.
func writtenCodes(t *testing.T, dir string) []string {
	t.Helper()
	var codes []string
	for _, f := range sources(t, dir) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Code" {
					codes = append(codes, literal(n.Value))
				}
			case *ast.CallExpr:
				// fault(at, code, ...) and its kin, whatever they are methods of
				name := ""
				switch of := n.Fun.(type) {
				case *ast.Ident:
					name = of.Name
				case *ast.SelectorExpr:
					name = of.Sel.Name
				}
				if slices.Contains([]string{"fault", "bad", "alone"}, name) && len(n.Args) > 3 {
					codes = append(codes, literal(n.Args[1]))
				}
			}
			return true
		})
	}
	codes = slices.DeleteFunc(codes, func(code string) bool { return code == "" }) // handed on
	if len(codes) == 0 {
		t.Fatalf("no codes in %s: the search is broken", dir)
	}
	return codes
}

func sources(t *testing.T, dir string) []*ast.File {
	t.Helper()
	entries, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range entries {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), dir+"/"+name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func callsOfFinding(t *testing.T) []*ast.CallExpr {
	t.Helper()
	var found []*ast.CallExpr
	for _, f := range sources(t, ".") {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "finding" {
					found = append(found, call)
				}
			}
			return true
		})
	}
	return found
}

// constants returns the string constants of a package, of the type only if it is named.
func constants(t *testing.T, dir, typ string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, f := range sources(t, dir) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			of, _ := spec.Type.(*ast.Ident)
			if typ != "" && (of == nil || of.Name != typ) {
				return true
			}
			for i, value := range spec.Values {
				if s := literal(value); s != "" {
					found[spec.Names[i].Name] = s
				}
			}
			return true
		})
	}
	return found
}

func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value)
	return s
}

func valuesOf(m map[string]string) []string {
	var values []string
	for _, v := range m {
		values = append(values, v)
	}
	return values
}
