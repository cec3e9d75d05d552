package rules

import "errors"

var (
	errQuote = errors.New("a quotation mark is not closed")
	errBreak = errors.New("a line break outside of quotation marks")
)

// split breaks a line of iptables-save into words, as iptables-restore does:
// double quotes hold white space, a backslash inside them takes the next byte
// literally, and the closing quote ends the word (add_param_to_argv in
// iptables/xshared.c, 1.8.9). A comment may hold line breaks, nothing else may.
func split(line string) ([]string, error) {
	var words []string
	var word []byte
	inWord, inQuotes, escaped := false, false, false
	end := func() {
		if inWord {
			words = append(words, string(word))
			word, inWord = word[:0], false
		}
	}
	for i := range len(line) {
		c := line[i]
		switch {
		case escaped:
			word, escaped = append(word, c), false
		case inQuotes && c == '\\':
			escaped = true
		case c == '"':
			inQuotes, inWord = !inQuotes, true
			if !inQuotes {
				end()
			}
		case !inQuotes && (c == ' ' || c == '\t'):
			end()
		case !inQuotes && c == '\n':
			return nil, errBreak
		default:
			word, inWord = append(word, c), true
		}
	}
	if inQuotes || escaped {
		return nil, errQuote
	}
	end()
	return words, nil
}

// unclosed reports whether text ends inside quotes, when it begins inside them
// or not.
func unclosed(text string, inQuotes bool) bool {
	escaped := false
	for i := range len(text) {
		switch c := text[i]; {
		case escaped:
			escaped = false
		case inQuotes && c == '\\':
			escaped = true
		case c == '"':
			inQuotes = !inQuotes
		}
	}
	return inQuotes
}
