# The only build vocabulary. `make demo` and `make test` are all that a newcomer needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
# Vectors of the reference implementations, where a checkout has them beside it.
VECTORS ?= ../shared/conformance

.PHONY: help setup build demo test lint fmt deny proto conformance bench doc ci clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install the Debian packages that demo and tests use (needs root only if one is missing)
	@tests/setup.sh

build: ## build everything, unoptimised
	$(CARGO) build --locked --workspace --bins

demo: setup build ## pull a signed image through the daemon, see an unsigned one refused
	@tests/demo.sh

test: setup build ## unit tests, then end to end against a real registry, KBS and mounts
	$(CARGO) test --locked --workspace

lint: fmt deny proto-check ## clippy with warnings denied, format, dependencies, generated code
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

fmt:
	$(CARGO) fmt --all --check

deny: ## licences, sources, banned and duplicate crates
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --all-features check bans licenses sources

proto: ## regenerate agent/src/generated from agent/proto
	$(CARGO) run --locked --quiet -p e2e --bin proto

.PHONY: proto-check
proto-check:
	$(CARGO) run --locked --quiet -p e2e --bin proto -- --check

conformance: ## the reference implementations' vectors: make conformance VECTORS=DIR
	$(CARGO) run --locked --quiet -p policy --example conformance -- $(VECTORS)
	$(CARGO) run --locked --quiet -p kbs-client --example vectors -- $(VECTORS)/../vectors/kbs.json

bench: ## measure against skopeo+umoci, podman and the floor (minutes; see docs/performance.md)
	@tests/setup.sh podman
	$(CARGO) build --locked --release --bins
	target/release/bench $(BENCH)

doc: ## the API documentation
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

ci: lint test ## what continuous integration runs
	@if [ -d "$(VECTORS)" ]; then $(MAKE) conformance; else echo "no vectors at $(VECTORS): conformance left out"; fi

clean:
	$(CARGO) clean
