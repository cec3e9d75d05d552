package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/metrics"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

var exporterCommand = command{
	name: "exporter", usage: "serve metrics to Prometheus", args: "",
	help: `Serves what status tells at /metrics, until SIGTERM. It listens on loopback unless told otherwise, or on the socket that systemd
hands over, and changes nothing. There is neither a password nor TLS: let nobody but Prometheus reach it. What the metrics mean is in
docs/metrics.md.

Without a daemon: status --prometheus FILE.`,
	examples: `
  synproxyctl exporter
  synproxyctl exporter --listen '[2001:db8::5]:9961'
  curl -s http://127.0.0.1:9961/metrics
`,
	flags: []cli.Flag{
		&cli.StringFlag{Name: "listen", Value: "127.0.0.1:9961", Usage: "`ADDR:PORT` to listen on; port 0: any that is free"},
		maxServicesFlag(),
		&cli.StringFlag{Name: "log-format", Value: "auto", Usage: "`FORMAT` of what it tells: text, journal (for systemd), json, or auto"},
		&cli.BoolFlag{Name: "debug", DisableDefaultText: true, Usage: "tell of each request"},
	},
	do: runExporter,
}

// exported is what an exporter tells at its end.
type exported struct {
	Listen   []string `json:"listen"`
	Reads    int      `json:"reads"`    // of the status
	Failures int      `json:"failures"` // of these
}

func runExporter(e env, c *cli.Context) (*answer, error) {
	log, err := logger(e.err, c.String("log-format"), c.Bool("debug"))
	if err != nil {
		return nil, err
	}
	r, err := reader(c)
	if err != nil {
		return nil, err
	}
	if err := protect.CanChange(); err != nil {
		return nil, err // it could read nothing
	}
	listeners, err := listen(c)
	if err != nil {
		return nil, err
	}
	// Who is being answered when the end comes gets the answer.
	reading, stop := context.WithCancel(context.WithoutCancel(c.Context))
	defer stop()
	x := &metrics.Exporter{Reader: *r, Log: log, Context: reading}
	done := &exported{}
	for _, l := range listeners {
		done.Listen = append(done.Listen, l.Addr().String())
		log.Info("metrics are at http://"+l.Addr().String()+"/metrics", "code", "listening")
		if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			log.Warn("whoever reaches "+l.Addr().String()+" may read the metrics", "code", "exposed", "hint", "let the firewall admit nobody but Prometheus")
		}
	}
	err = serve(c.Context, log, listeners, exporterPages(log, x))
	done.Reads, done.Failures = x.Reads()
	return &answer{result: done, text: func(w io.Writer, _ paint) {
		fmt.Fprintf(w, "ended: the status was read %s, and could not be read %s\n", times(done.Reads), times(done.Failures))
	}}, err
}

func times(n int) string { return plural(n, "time") }

// listen returns what systemd hands over, else listens where it is told to.
func listen(c *cli.Context) ([]net.Listener, error) {
	handed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets of systemd: %w", err)
	}
	for i, l := range handed {
		switch {
		case l == nil:
			return nil, protect.Errorf(protect.Usage, "hand over stream sockets (ListenStream=)", "socket %d of systemd: not one that listens", i+1)
		case c.IsSet("listen"):
			return nil, protect.Errorf(protect.Usage, "leave out --listen, or the socket unit", "--listen %s: systemd has handed over the socket %s", quote(c.String("listen")), l.Addr())
		}
	}
	if len(handed) > 0 {
		return handed, nil
	}
	where := c.String("listen")
	if _, _, err := net.SplitHostPort(where); err != nil {
		return nil, protect.Errorf(protect.Usage, "give ADDR:PORT, such as 127.0.0.1:9961 or [::1]:9961", "--listen %s: not an address with a port", quote(where))
	}
	var config net.ListenConfig
	l, err := config.Listen(c.Context, "tcp", where)
	var number *net.ParseError
	var name *net.DNSError
	var address *net.AddrError
	switch {
	case err == nil:
		return []net.Listener{l}, nil
	case errors.Is(err, unix.EADDRINUSE):
		return nil, protect.Errorf(protect.Conflict, "is another exporter running? if not, give another port: --listen ADDR:PORT", "--listen %s: the port is taken", quote(where))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, protect.Errorf(protect.Failed, "give an address of this host, or wait until it has it", "--listen %s: not an address of this host", quote(where))
	case errors.Is(err, unix.EACCES):
		return nil, protect.Errorf(protect.Permission, "give a port from 1024 on", "--listen %s: not permitted", quote(where))
	case errors.As(err, &number), errors.As(err, &name), errors.As(err, &address):
		return nil, protect.Errorf(protect.Usage, "give ADDR:PORT, such as 127.0.0.1:9961 or [::1]:9961", "--listen %s: %w", quote(where), err)
	}
	return nil, protect.Errorf(protect.Failed, "give another --listen ADDR:PORT", "--listen %s: %w", quote(where), err)
}

// exporterPages are the pages that there are.
func exporterPages(log *slog.Logger, x prometheus.Collector) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(x, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	const atOnce = 16
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), MaxRequestsInFlight: atOnce,
	}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, strings.ReplaceAll(landing, "VERSION", version)) // whoever left does not read it
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Debug("request", "from", r.RemoteAddr, "method", r.Method, "path", r.URL.Path)
		mux.ServeHTTP(w, r)
	})
}

const landing = `<!DOCTYPE html>
<html lang="en"><head><title>synproxyctl</title></head><body>
<h1>synproxyctl VERSION</h1>
<p>SYN-flood protection by the kernel's SYNPROXY: <a href="/metrics">metrics</a>.</p>
</body></html>
`

// serve answers until ctx ends, and then ends those answers that have begun.
func serve(ctx context.Context, log *slog.Logger, listeners []net.Listener, pages http.Handler) error {
	const (
		question = 5 * time.Second
		all      = 30 * time.Second
		idle     = 2 * time.Minute // longer than between two scrapes
		head     = 16 << 10
		grace    = 5 * time.Second
	)
	srv := &http.Server{
		Handler: pages, ReadHeaderTimeout: question, ReadTimeout: question, WriteTimeout: all, IdleTimeout: idle, MaxHeaderBytes: head,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- srv.Serve(l) }()
	}
	notify(log, daemon.SdNotifyReady)
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-ended:
	}
	notify(log, daemon.SdNotifyStopping)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if srv.Shutdown(last) != nil {
		_ = srv.Close() // they had their time
	}
	return failure
}

// notify tells the service manager, if there is one.
func notify(log *slog.Logger, line string) {
	if _, err := daemon.SdNotify(false, line); err != nil {
		log.Debug("the service manager was not told", "error", err)
	}
}
