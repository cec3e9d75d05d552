package metrics

import (
	"bytes"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// WriteText writes metrics in the text format that Prometheus and the textfile
// collector of node_exporter read.
func WriteText(w io.Writer, from prometheus.Collector) error {
	reg := prometheus.NewRegistry()
	if err := reg.Register(from); err != nil {
		return err
	}
	families, err := reg.Gather()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	enc := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	_, err = w.Write(text.Bytes())
	return err
}
