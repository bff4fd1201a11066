// Command node is a control node as `muster server` runs it, with faults that a
// test asks for over a socket (package test/chaos): its disk, its clock, and
// bugs that are planted to see them found.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/control"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		cfg    control.Config
		join   string
		socket string
		bug    string
		clock  time.Duration
	)
	flag.StringVar(&cfg.Dir, "dir", "", "directory of the node")
	flag.StringVar(&cfg.Name, "name", "", "name of the node")
	flag.StringVar(&cfg.Address, "address", "", "host:port")
	flag.BoolVar(&cfg.Init, "init", false, "make a new cluster")
	flag.StringVar(&join, "join", "", "addresses to join through, separated by commas")
	flag.StringVar(&cfg.Token, "token", "", "server token")
	flag.StringVar(&socket, "faults", "", "path of the socket to take faults from")
	flag.StringVar(&bug, "bug", "", "plant a bug: "+strings.Join(bugNames(), ", "))
	flag.DurationVar(&clock, "clock", 0, "by how much the wall clock is off from the start")
	flag.Parse()
	if join != "" {
		cfg.Join = strings.Split(join, ",")
	}
	if clock != 0 {
		if err := setClock(clock); err != nil {
			return err
		}
	}
	planted, err := plant(bug)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	cfg.Version = "v0.0.0-chaos"
	// A snapshot every few seconds, so that nodes start from one, and are sent
	// one when they come back after a while.
	cfg.SnapshotLogBytes = 256 << 10
	cfg.Interceptors = append(cfg.Interceptors, sign, planted)
	cfg.StreamInterceptors = append(cfg.StreamInterceptors, signStream)

	faults := &faults{disk: newDisk()}
	cfg.Disk = faults.disk
	listener, err := faults.listen(socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	server, err := control.New(ctx, cfg)
	if err != nil {
		return err
	}
	if err := server.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
