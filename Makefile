# `make dev` runs Kafscale, `make test` proves it. Both install what they need; nothing is written into the work tree.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kafscale
export CARGO_TARGET_DIR ?= $(CACHE)/target
KAFSCALE_TOOLS ?= $(CACHE)/tools
DENY := $(CACHE)/bin/cargo-deny
DENY_VERSION := 0.20.2

.DEFAULT_GOAL := help
.PHONY: help dev release test test-unit test-broker test-tools lint fmt deny tools docs

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

dev: release ## Build and run `kafscale dev` (ARGS='--data-dir …' for flags)
	exec $(CARGO_TARGET_DIR)/release/kafscale dev $(ARGS)

release: ## Build the optimised program
	@scripts/setup.sh build
	cargo build --release --locked --bin kafscale
	@echo "built $(CARGO_TARGET_DIR)/release/kafscale"

test: ## Run every test; installs etcd, an S3 server and Kafka clients first
	@scripts/setup.sh test
	$(MAKE) --no-print-directory test-tools
	KAFSCALE_TOOLS=$(KAFSCALE_TOOLS) cargo test --locked --no-fail-fast

test-unit: ## Run the tests that need no other program
	@scripts/setup.sh build
	cargo test --locked --lib

test-broker: ## Run the tests of the real binary (TEST=name for some of them)
	@scripts/setup.sh test
	KAFSCALE_TOOLS=$(KAFSCALE_TOOLS) cargo test --locked --test integration -- $(TEST)

test-tools: ## Test our own Go tools
	cd tools/s3-latency && go vet ./... && go test -v ./...

lint: ## Check format, lints, licences and banned dependencies
	@scripts/setup.sh build
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	$(MAKE) --no-print-directory deny

fmt: ## Format the sources
	cargo fmt

deny: $(DENY) ## Check licences, bans and sources of all dependencies
	$(DENY) --all-features check bans licenses sources

$(DENY):
	@echo "==> installing cargo-deny $(DENY_VERSION) (five minutes, once)"
	cargo install cargo-deny --version $(DENY_VERSION) --locked --quiet --root $(CACHE)

tools: ## Install what the tests need, and nothing else
	@scripts/setup.sh test

docs: ## Generate docs/configuration.md from the configuration structs
	cargo run --locked --quiet --bin kafscale -- config-docs > docs/.configuration.md.new
	mv docs/.configuration.md.new docs/configuration.md
