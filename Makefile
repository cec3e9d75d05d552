# The targets that a person needs; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Users often lack the directories of the administrator's programs.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin

# How long `make fuzz` spends on each target.
FUZZTIME ?= 5m
# What `make test` tests, and arguments of `make demo` and `make bench`, such as ARGS=--json and ARGS=-short.
PKGS ?= ./...
ARGS ?=

# The linter's dependencies are no business of the module's.
LINT := go tool -modfile=tools/go.mod golangci-lint

.PHONY: help build generate test test-ansible test-packages full lint format pictures fuzz soak demo bench dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

build: ## Build bin/synproxyctl, a static binary
	CGO_ENABLED=0 go build -trimpath -o bin/synproxyctl ./cmd/synproxyctl

generate: ## Compile the BPF program anew, after a change of its source
	@scripts/setup test
	go generate ./internal/accel

test: ## Install what is missing, then run all tests, on the real kernel in namespaces of their own
	@scripts/setup test
	@as=$$(scripts/privilege); set -x; \
	go test -race -count=1 -timeout 40m $${as:+-exec "$$as"} $(PKGS)

test-ansible: ## Install Ansible and an ssh server's files, and let it roll out to eight hosts of the lab by ssh
	@scripts/setup ansible
	@if ((EUID == 0)); then as=; else as="sudo --preserve-env env PATH=$$PATH"; fi; set -x; \
	go test -count=1 -timeout 15m -v -tags ansible $${as:+-exec "$$as"} ./e2e -run '^TestAnsible' $(ARGS)

test-packages: ## Build the packages, and install, upgrade, purge and boot them in roots of their own; as root
	@scripts/setup packages
	@if ((EUID == 0)); then as=; else as="sudo --preserve-env env PATH=$$PATH"; fi; set -x; \
	$$as go test -count=1 -timeout 10m -tags packages ./packaging/e2e $(ARGS)

full: ## Run the end-to-end tests with every combination of backend, place and mode, which takes more than an hour
	@scripts/setup test
	@as=$$(scripts/privilege); set -x; \
	go test -race -count=1 -timeout 180m $${as:+-exec "$$as"} ./e2e -full $(ARGS)

lint: ## Check the style, the arrows between packages, and that go.mod is tidy
	$(LINT) run ./...
	go mod tidy -diff
	for f in scripts/* .ci/run; do bash -n "$$f"; done

format: ## Format the Go files as the linter wants them
	$(LINT) fmt ./...

pictures: ## Draw the pictures of docs/how-it-works.md
	go generate ./docs/pictures

fuzz: ## Run every fuzz target for FUZZTIME (5m; a short round: make fuzz FUZZTIME=10s)
	@scripts/fuzz $(FUZZTIME)

soak: ## Take busy services through every transition, 10,000 connections in each case, without and with a flood
	@scripts/setup test
	@as=$$(scripts/privilege); set -x; \
	go test -count=1 -timeout 60m -v $${as:+-exec "$$as"} ./e2e -run '^TestSoak(Flood)?$$' -soak $(ARGS)

demo: ## Install what is missing, build, and show the whole story in namespaces of its own
	@scripts/setup run
	@$(MAKE) --no-print-directory build
	@as=$$(scripts/privilege); $$as ./bin/synproxyctl demo $(ARGS)

bench: ## Install what is missing, measure everything against its peers (half an hour; a smoke test: make bench ARGS=-short)
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	go build -o bin/bench ./bench
	@if ((EUID == 0)); then as=; else as="sudo --preserve-env env PATH=$$PATH"; fi; set -x; \
	$$as ./bin/bench -program bin/synproxyctl $(ARGS)

dist: ## Build static binaries and packages, .deb and .rpm, for amd64 and arm64; the same bytes for the same commit
	@scripts/setup run
	@scripts/dist

clean: ## Remove what was built
	rm -rf bin dist
