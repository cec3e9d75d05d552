package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Number prints a value with three digits that count, and thousands apart: 0.00123, 4.5, 1,230.
func Number(v float64) string {
	switch abs := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case v == 0:
		return "0"
	case abs >= 100:
		return Thousands(int64(math.Round(v)))
	default:
		decimals := max(0, 2-int(math.Floor(math.Log10(abs))))
		s := strconv.FormatFloat(v, 'f', decimals, 64)
		if strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s
	}
}

// Thousands prints a whole number with commas.
func Thousands(n int64) string {
	if n < 0 {
		return "-" + Thousands(-n)
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// String prints the median and the spread, such as "3.2 (3.1–3.4)", or the one value.
func (s Summary) String() string {
	if math.IsNaN(s.Median) || s.Min == s.Max {
		return Number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", Number(s.Median), Number(s.Min), Number(s.Max))
}
