# The only build vocabulary. `make demo` and `make test` are all that a newcomer needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
# Vectors of the reference implementations, where a checkout has them beside it.
VECTORS ?= ../shared/conformance
FUZZ_SECONDS ?= 60
TARGET = $(or $(CARGO_TARGET_DIR),target)

.PHONY: help setup build demo test soak lint fmt deny proto conformance fuzz-smoke fuzz bench doc ci clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install the Debian packages that demo and tests use (needs root only if one is missing)
	@tests/setup.sh

build: ## build everything, unoptimised
	$(CARGO) build --locked --workspace --bins
# Programs are built with the whole workspace, not by `cargo run -p`: the selection decides the
# features of dependencies, and with other features most of them are built once more.

demo: setup build ## pull a signed image through the daemon, see an unsigned one refused
	@tests/demo.sh

test: setup build ## unit tests, then end to end against a real registry, KBS and mounts
	$(CARGO) test --locked --workspace

soak: setup build ## kill the daemon at 200 random moments of a pull; pull a gigabyte over a line that drops (minutes)
	SOAK_ROUNDS=200 $(CARGO) test --locked --workspace --test e2e -- soak:: --nocapture
	SOAK_BYTES=1000000000 $(CARGO) test --locked --workspace --test e2e -- bad_line::random_drops --nocapture

lint: fmt deny proto-check ## clippy with warnings denied, format, dependencies, generated code
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

fmt:
	$(CARGO) fmt --all --check

deny: ## licences, sources, banned and duplicate crates
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --all-features check bans licenses sources

proto: build ## regenerate agent/src/generated from agent/proto
	@$(TARGET)/debug/proto

.PHONY: proto-check
proto-check: build
	@$(TARGET)/debug/proto --check

conformance: ## the reference implementations' vectors: make conformance VECTORS=DIR
	$(CARGO) build --locked --quiet --workspace --bins --examples
	@$(TARGET)/debug/examples/conformance $(VECTORS)
	@$(TARGET)/debug/examples/registry_conformance $(VECTORS)
	@$(TARGET)/debug/examples/sigstore $(VECTORS)/../vectors/sigstore
	@$(TARGET)/debug/examples/bundles $(VECTORS)/../vectors/sigstore
	@$(TARGET)/debug/examples/vectors $(VECTORS)/../vectors/kbs.json

# With a seed, so that a change is judged by what it changes and not by chance.
fuzz-smoke: setup ## every fuzz target for 5 s
	@fuzz/run.sh 5 1

fuzz: setup ## every fuzz target for a minute: make fuzz FUZZ_SECONDS=600
	@fuzz/run.sh $(FUZZ_SECONDS)

bench: ## measure against skopeo+umoci, podman and the floor (minutes; see docs/performance.md)
	@tests/setup.sh podman
	$(CARGO) build --locked --release --workspace --bin image-agent --bin bench \
	  --example decide_bench --example bundle_bench
	@echo "image-agent: $$(stat -c %s $(TARGET)/release/image-agent) bytes, $$($(CARGO) tree --locked \
	  -p agent -e normal --prefix none | sed 's/ (\*)$$//' | sort -u | wc -l) crates"
	$(TARGET)/release/examples/bundle_bench
	$(TARGET)/release/bench $(BENCH)
	$(TARGET)/release/examples/decide_bench

# The release of cosign that `make interop` checks against; what is built is kept.
COSIGN := v3.1.3
COSIGN_PROGRAM = $(TARGET)/interop/$(COSIGN)/cosign

.PHONY: interop
interop: setup build $(COSIGN_PROGRAM) ## run docs/policy.md and check against cosign, which go builds once (minutes)
	@$(TARGET)/debug/interop --cosign $(COSIGN_PROGRAM)

$(COSIGN_PROGRAM):
	@command -v go >/dev/null || { echo "make interop builds cosign, which needs go" >&2; exit 1; }
	GOBIN=$(abspath $(@D)) GOFLAGS=-trimpath go install github.com/sigstore/cosign/v3/cmd/cosign@$(COSIGN)

doc: ## the API documentation
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

ci: lint test fuzz-smoke ## what continuous integration runs
	@if [ -d "$(VECTORS)" ]; then $(MAKE) conformance; else echo "no vectors at $(VECTORS): conformance left out"; fi

clean:
	$(CARGO) clean
