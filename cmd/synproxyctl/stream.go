package main

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strings"
)

// viewed is an element of a list that is shown by another value.
type viewed interface{ View() any }

// part is a piece of the inside of a JSON object: some fields, or one field that
// is a list, which is not encoded before it is written. A hundred thousand
// services would take several times the memory of all the rest.
type part struct {
	text []byte        // fields, or `"key":` of the list
	list reflect.Value // a slice; not valid: the text is all
}

// partsOf returns the fields of a value as json.Marshal would show it. What is no
// struct of its own fields alone is one part.
func partsOf(value any) ([]part, error) {
	v := reflect.ValueOf(value)
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if _, own := value.(json.Marshaler); own || v.Kind() != reflect.Struct {
		text, err := inside(value)
		return []part{{text: text}}, err
	}
	var (
		parts  []part
		fields []reflect.StructField
		values []reflect.Value
	)
	flush := func() error {
		plain := reflect.New(reflect.StructOf(fields)).Elem()
		for i, value := range values {
			plain.Field(i).Set(value)
		}
		text, err := inside(plain.Interface())
		parts, fields, values = append(parts, part{text: text}), nil, nil
		return err
	}
	for i := range v.NumField() {
		f, at := v.Type().Field(i), v.Field(i)
		switch key, _, _ := strings.Cut(f.Tag.Get("json"), ","); {
		case f.Anonymous:
			text, err := inside(value)
			return []part{{text: text}}, err
		case !f.IsExported():
		case key != "" && key != "-" && isList(at):
			if err := flush(); err != nil {
				return nil, err
			}
			parts = append(parts, part{[]byte(`"` + key + `":`), at})
		default:
			fields, values = append(fields, f), append(values, at)
		}
	}
	return parts, flush()
}

// isList reports whether a value is a list of structs that can be written one by
// one.
func isList(v reflect.Value) bool {
	if v.Kind() != reflect.Slice || v.Len() == 0 || v.Type().Elem().Kind() != reflect.Struct {
		return false
	}
	if _, own := v.Interface().(json.Marshaler); own {
		_, elements := v.Index(0).Interface().(viewed)
		return elements
	}
	return true
}

// inside returns the fields of a value that JSON shows as an object.
func inside(value any) ([]byte, error) {
	var b bytes.Buffer
	if err := encoder(&b).Encode(value); err != nil {
		return nil, err
	}
	text := bytes.TrimSpace(b.Bytes())
	return text[1 : len(text)-1], nil
}

func encoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

// write writes the part.
func (p part) write(w io.Writer) error {
	if _, err := w.Write(p.text); err != nil || !p.list.IsValid() {
		return err
	}
	var b bytes.Buffer
	enc := encoder(&b)
	separator := byte('[')
	for i := range p.list.Len() {
		b.Reset()
		b.WriteByte(separator)
		value := p.list.Index(i).Addr().Interface()
		if v, ok := value.(viewed); ok {
			value = v.View()
		}
		if err := enc.Encode(value); err != nil {
			return err
		}
		if _, err := w.Write(bytes.TrimSuffix(b.Bytes(), []byte("\n"))); err != nil {
			return err
		}
		separator = ','
	}
	_, err := w.Write([]byte("]"))
	return err
}
