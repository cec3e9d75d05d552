package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxText bounds a configuration, in bytes: some ten thousand services.
	maxText = 1 << 20
	// maxDepth bounds how deep it is nested; what has a meaning is six deep.
	maxDepth = 16
	// maxTokens bounds words and signs: a target takes two or three.
	maxTokens = 300_000
	// maxKeys bounds the keys of a mapping, for which the library takes a time
	// that grows with their square.
	maxKeys = 32
)

const listAdvice = `move its targets to a file with one on each line, and name that: targets: "@FILE"`

// tree reads one YAML document. It bounds what a hostile one can cost before
// the library, which recurses, builds anything of it: there are no aliases, so
// that nothing grows, and depth and width are limited.
func tree(name string, text []byte) (ast.Node, error) {
	text, err := clean(name, text)
	if err != nil {
		return nil, err
	}
	tokens := rejoin(lexer.Tokenize(string(text)))
	if err := checkTokens(name, tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxFault(name, err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case body != nil:
			return nil, alone(tokenPlace(name, doc.Start), "second-document", "keep one document in the file; put the others into files of their own", "a second document begins here")
		default:
			body = doc.Body
		}
	}
	if body == nil {
		return nil, alone(Place{File: name, Line: 1, Column: 1}, "empty", "begin with version: 1; see synproxyctl config example", "the file is empty")
	}
	return body, nil
}

// clean refuses what is not text, and returns the text with the marks of other
// systems taken out.
func clean(name string, text []byte) ([]byte, error) {
	start := Place{File: name, Line: 1, Column: 1}
	const saveAs = "save it as plain UTF-8 text"
	if len(text) > maxText {
		return nil, alone(start, "too-large", listAdvice, "more than %d bytes", maxText)
	}
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, alone(start, "not-text", saveAs, "UTF-16 text")
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	number := 0
	for line := range bytes.Lines(text) {
		number++
		indent := 0
		for indent < len(line) && (line[indent] == ' ' || line[indent] == '\t') {
			if line[indent] == '\t' && len(bytes.TrimSpace(line)) > 0 {
				return nil, alone(Place{name, number, indent + 1}, "tab", "indent with spaces", "a tab in the indentation")
			}
			indent++
		}
		column := 0
		for len(line) > 0 {
			r, size := utf8.DecodeRune(line)
			column++
			if r == utf8.RuneError && size == 1 || r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
				return nil, alone(Place{name, number, column}, "not-text", saveAs, "a byte or character that text does not have: %q", line[:size])
			}
			line = line[size:]
		}
	}
	return text, nil
}

// refused are parts of YAML that a configuration needs not, and what to do instead.
var refused = map[token.Type][2]string{
	token.AnchorType:     {"an anchor", "say it under defaults:, or write it out"},
	token.AliasType:      {"an alias", "say it under defaults:, or write it out"},
	token.MergeKeyType:   {"a merge key", "say it under defaults:, or write it out"},
	token.TagType:        {"a tag", "leave it away: the keys tell the types"},
	token.MappingKeyType: {"a complex key", "write KEY: VALUE"},
	token.DirectiveType:  {"a directive", "leave it away"},
	token.LiteralType:    {"a block of text", "write it on one line"},
	token.FoldedType:     {"a block of text", "write it on one line"},
}

// rejoin puts together what the library takes apart: within braces it takes any
// colon for the end of a key, though only one before a space is (YAML 1.2,
// section 7.3.3), and so 2001:db8::1 for a mapping.
func rejoin(tokens token.Tokens) token.Tokens {
	whole := make(token.Tokens, 0, len(tokens))
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		if i+1 == len(tokens) || t.Type != token.MappingValueType || !isPlain(tokens[i+1]) || !touches(t, tokens[i+1]) {
			whole = append(whole, t)
			continue
		}
		last := len(whole) - 1
		value, at := t.Value+tokens[i+1].Value, t.Position
		switch {
		case last >= 0 && isPlain(whole[last]) && touches(whole[last], t): // 2001:db8::1
			value, at = whole[last].Value+value, whole[last].Position
			whole = whole[:last]
		case last >= 0 && (begins(whole[last].Type) || whole[last].Type == token.CollectEntryType || whole[last].Type == token.MappingValueType): // ::1
		default: // "key":value, as in JSON
			whole = append(whole, t)
			continue
		}
		whole = append(whole, token.String(value, value, at))
		i++
	}
	for i, t := range whole {
		t.Prev, t.Next = nil, nil
		if i > 0 {
			t.Prev, whole[i-1].Next = whole[i-1], t
		}
	}
	return whole
}

// touches reports whether a token without quotes ends where another begins.
func touches(t, next *token.Token) bool {
	return t.Position.Line == next.Position.Line && t.Position.Column+utf8.RuneCountInString(t.Value) == next.Position.Column
}

// isPlain reports whether a token is a scalar without quotes.
func isPlain(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.IntegerType, token.FloatType, token.HexIntegerType, token.OctetIntegerType, token.BinaryIntegerType, token.BoolType, token.NullType:
		return true
	}
	return false
}

// checkTokens refuses what the library would recurse on or spend much time with,
// and what it refuses itself in words that do not help.
func checkTokens(name string, tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return alone(tokenPlace(name, tokens[maxTokens]), "too-large", listAdvice, "more than %d words and signs", maxTokens)
	}
	var n nesting
	for _, t := range tokens {
		if what, ok := refused[t.Type]; ok {
			return alone(tokenPlace(name, t), "not-supported", what[1], "%s, which a configuration cannot have", what[0])
		}
		if t.Type == token.InvalidType {
			return invalidToken(name, t)
		}
		n.next(t)
		switch {
		case n.depth() > maxDepth:
			return alone(tokenPlace(name, t), "too-deep", "see synproxyctl config example", "nested deeper than %d", maxDepth)
		case n.keys() > maxKeys:
			return alone(tokenPlace(name, t), "too-many", "see synproxyctl config example", "more than %d keys in one place", maxKeys)
		case ends(t.PreviousType()) && begins(t.Type):
			return alone(tokenPlace(name, t), "syntax", "put a comma between them, or take one out", "not YAML: a bracket opens right after one that closes")
		}
	}
	return nil
}

func begins(t token.Type) bool { return t == token.SequenceStartType || t == token.MappingStartType }

func ends(t token.Type) bool { return t == token.SequenceEndType || t == token.MappingEndType }

// invalidToken tells what the library says of a token, and what to do.
func invalidToken(name string, t *token.Token) error {
	advice := "check the quotes and brackets before it"
	switch strings.TrimSpace(t.Value) {
	case "@":
		advice = `put it in quotes: "@FILE"`
	case "`", "%":
		advice = "put the text in quotes"
	}
	problem := t.Error
	if problem == "" {
		problem = "not YAML"
	}
	return alone(tokenPlace(name, t), "syntax", advice, "%s", problem)
}

// nesting measures, from its tokens, how deep a document is nested and how many
// keys a mapping of it has.
type nesting struct {
	flow   []int   // the keys of each bracket that is open
	blocks []block // that are open
	line   int     // of the last token
	inLine int     // colons in it
}

// block is a list or a mapping without brackets.
type block struct{ column, keys int }

func (n *nesting) next(t *token.Token) {
	if t.Position.Line != n.line {
		n.line, n.inLine = t.Position.Line, 0
	}
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		n.flow = append(n.flow, 0)
	case token.SequenceEndType, token.MappingEndType:
		n.flow = n.flow[:max(0, len(n.flow)-1)]
	case token.CollectEntryType:
		n.inLine = 0
	case token.MappingValueType:
		n.inLine++
		switch {
		case len(n.flow) > 0:
			n.flow[len(n.flow)-1]++
		case t.Prev != nil:
			n.open(t.Prev.Position.Column).keys++ // that of the key
		}
	case token.SequenceEntryType:
		n.open(t.Position.Column)
	default:
	}
}

// open returns the block that begins, or goes on, in a column.
func (n *nesting) open(column int) *block {
	for len(n.blocks) > 0 && n.blocks[len(n.blocks)-1].column > column {
		n.blocks = n.blocks[:len(n.blocks)-1]
	}
	if len(n.blocks) == 0 || n.blocks[len(n.blocks)-1].column < column {
		n.blocks = append(n.blocks, block{column: column})
	}
	return &n.blocks[len(n.blocks)-1]
}

func (n *nesting) depth() int { return len(n.flow) + len(n.blocks) + max(0, n.inLine-1) }

func (n *nesting) keys() int {
	most := 0
	if len(n.flow) > 0 {
		most = n.flow[len(n.flow)-1]
	}
	if len(n.blocks) > 0 {
		most = max(most, n.blocks[len(n.blocks)-1].keys)
	}
	return most
}

// syntaxFault tells in our form what the library says.
func syntaxFault(name string, err error) error {
	at, problem := Place{File: name, Line: 1, Column: 1}, err.Error()
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		at, problem = tokenPlace(name, syntax.Token), syntax.Message
	}
	problem, _, _ = strings.Cut(problem, "\n")
	return alone(at, "syntax", "check the indentation, quotes and brackets here and in the line before", "not YAML: %s", problem)
}

func tokenPlace(name string, t *token.Token) Place {
	if t == nil || t.Position == nil {
		return Place{File: name, Line: 1, Column: 1}
	}
	return Place{File: name, Line: max(1, t.Position.Line), Column: max(1, t.Position.Column)}
}

// kindOf names what a value is, for people.
func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return fmt.Sprintf("the number %s", n.GetToken().Value)
	case *ast.StringNode:
		return "the text " + quote(n.Value)
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	return "something else"
}
