// Package spell finds the word that was probably meant: that of a flag, a
// command or a key. It knows no language, only how far two words are apart.
package spell

// Nearest returns the name that is nearest to the word; empty if none is near.
// Of names that are equally near it returns the first.
func Nearest(word string, names []string) string {
	const far = 3
	best, near := "", far
	for _, name := range names {
		// A name as short as the distance is near to anything.
		if d := distance(word, name); d < near && d < len(name) {
			best, near = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two words, in bytes: how many have to
// be put in, taken out or replaced. Of long words it looks at the beginning.
func distance(a, b string) int {
	const longest = 64
	a, b = a[:min(len(a), longest)], b[:min(len(b), longest)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
