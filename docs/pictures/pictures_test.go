package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// The committed pictures are those that the sources draw.
func TestPicturesAreCurrent(t *testing.T) {
	page, err := os.ReadFile("../how-it-works.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range pictures() {
		have, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(have, p.svg()) {
			t.Errorf("%s is not what the sources draw (%v): run make pictures, and look at it", name, err)
		}
		if !strings.Contains(string(page), "](pictures/"+name+")") {
			t.Errorf("docs/how-it-works.md does not show %s", name)
		}
		d := xml.NewDecoder(bytes.NewReader(p.svg()))
		for err = nil; err == nil; {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s is not XML: %v", name, err)
		}
	}
}

// No two texts overlap, and none leaves the picture, in the widest usual font.
func TestNoTextOverlaps(t *testing.T) {
	for name, p := range pictures() {
		for i, a := range p.texts {
			if a.left < 4 || a.top < 4 || a.right > p.width-4 || a.bottom > p.height-4 {
				t.Errorf("%s: %q leaves the picture", name, a.text)
			}
			for _, b := range p.texts[:i] {
				if a.meets(b) {
					t.Errorf("%s: %q overlaps %q", name, a.text, b.text)
				}
			}
			for _, b := range p.boxes {
				within := a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom
				if a.meets(b) && !within {
					t.Errorf("%s: %q crosses the border of the box %q", name, a.text, b.text)
				}
			}
		}
	}
}

func (l label) meets(o label) bool {
	return l.left < o.right && o.left < l.right && l.top < o.bottom && o.top < l.bottom
}
