package rules

import "errors"

var errQuote = errors.New("a quotation mark is not closed")

// split breaks a line of iptables-save into words, as iptables-restore does:
// double quotes hold white space, and a backslash inside them takes the next
// byte literally (add_param_to_argv in iptables/xshared.c, 1.8.9).
func split(line string) ([]string, error) {
	var words []string
	var word []byte
	inWord, inQuotes, escaped := false, false, false
	for i := range len(line) {
		c := line[i]
		switch {
		case escaped:
			word, escaped = append(word, c), false
		case inQuotes && c == '\\':
			escaped = true
		case c == '"':
			inQuotes, inWord = !inQuotes, true
		case !inQuotes && (c == ' ' || c == '\t' || c == '\r'):
			if inWord {
				words = append(words, string(word))
				word, inWord = word[:0], false
			}
		default:
			word, inWord = append(word, c), true
		}
	}
	if inQuotes || escaped {
		return nil, errQuote
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, nil
}
