# `make dev` runs Kafscale, `make test` proves it. Both install what they need; nothing is written into the work tree.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kafscale
export CARGO_TARGET_DIR ?= $(CACHE)/target
KAFSCALE_TOOLS ?= $(CACHE)/tools
FUZZ_VERSION := 0.13.2
FUZZ := $(CACHE)/cargo-fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
DENY_VERSION := 0.20.2
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.DEFAULT_GOAL := help
.PHONY: help dev release test test-unit test-broker test-operator operator-soak test-tools sim chaos chaos-cluster rolling chaos-faults chaos-world chaos-matrix groups cost cost-page breadth scale console-scale console-proof abuse bench fuzz fuzz-seeds lint fmt deny advisories tools image crds docs

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

dev: release ## Build and run `kafscale dev` (ARGS='--data-dir …' for flags)
	exec $(CARGO_TARGET_DIR)/release/kafscale dev $(ARGS)

release: ## Build the optimised program
	@scripts/setup.sh build
	cargo build --release --locked --bin kafscale
	@echo "built $(CARGO_TARGET_DIR)/release/kafscale"

test: ## Run every test; installs etcd, an S3 server, Kubernetes and Kafka clients first
	@scripts/setup.sh test
	$(MAKE) --no-print-directory test-tools
	KAFSCALE_TOOLS=$(KAFSCALE_TOOLS) cargo test --locked --no-fail-fast

test-unit: ## Run the tests that need no other program
	@scripts/setup.sh build
	cargo test --locked --lib

test-broker: ## Run the tests of the real binary (TEST=name for some of them)
	@scripts/setup.sh test
	KAFSCALE_TOOLS=$(KAFSCALE_TOOLS) cargo test --locked --test integration -- $(TEST)

test-operator: ## Run the tests on a Kubernetes control plane (TEST=name for some of them)
	@scripts/setup.sh test
	@cargo test --locked --test integration --no-run
	@names="$$(cargo test --quiet --locked --test integration -- --list | sed -n 's/^\(operator::.*$(TEST).*\): test$$/\1/p')" && \
		[ -n "$$names" ] && KAFSCALE_TOOLS=$(KAFSCALE_TOOLS) cargo test --locked --test integration -- --exact $$names

test-tools: ## Test our own Go tools
	cd tools/s3-latency && go vet ./... && go test -v ./...

# Long proofs run the release program; sizes are variables, for example `make chaos KILLS=1000 BACKEND=s3`.
PROOF = @scripts/setup.sh test && KAFSCALE_TOOLS=$(KAFSCALE_TOOLS) cargo test --release --locked --test integration -- --nocapture

sim: export SEEDS ?= 1000
sim: export SEED ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
sim: ## Simulate faults and crashes under paused time (SEEDS=1000, SEED=)
	$(PROOF) sim::

chaos: export KILLS ?= 100
chaos: ## Kill the broker under load (KILLS=100, BACKEND=dev or s3, SEED=)
	$(PROOF) ledger::

chaos-cluster: export KILLS ?= 100
chaos-cluster: ## Kill brokers of a cluster of three under load (KILLS=100, SEED=)
	$(PROOF) cluster:: --skip console::

rolling: export ROLLS ?= 20
rolling: ## Restart the brokers of a cluster one after the other under clients (ROLLS=20, S3_PROFILE=none, std or express)
	$(PROOF) rolling::

operator-soak: export RECONCILES ?= 10000
operator-soak: export IDLE_SEC ?= 60
operator-soak: export KUBERNETES_TOPICS ?= 500
operator-soak: ## The operator's memory, watches and idle CPU over many reconciles, and many topics at once (RECONCILES=10000, IDLE_SEC=60)
	$(PROOF) operator::soak::

chaos-faults: export DURATION_SEC ?= 30
chaos-faults: ## Let S3 and etcd fail under load (DURATION_SEC=30 per fault, SEED=)
	$(PROOF) faults::

chaos-world: export DURATION_SEC ?= 30
chaos-world: export PAUSES ?= 4
chaos-world: ## Break a cluster's brokers, etcd, S3, network and disk (DURATION_SEC=30 per fault, PAUSES=4, SEED=)
	$(PROOF) chaos:: --skip chaos::matrix

chaos-matrix: export DURATION_SEC ?= 30
chaos-matrix: export ROUNDS ?= 40
chaos-matrix: ## All of these faults in random order (DURATION_SEC=30 at most, ROUNDS=40, SEED=)
	$(PROOF) chaos::matrix

groups: export GROUP_COUNT ?= 1000
groups: export DURATION_SEC ?= 600
groups: export MEMBERS ?= 100
groups: export GROUP_KILLS ?= 50
groups: export CHANGES ?= 1000
groups: export COMMITS ?= 100000
groups: ## Consumer groups at full size (GROUP_COUNT=1000, DURATION_SEC=600, MEMBERS=100, GROUP_KILLS=50, CHANGES=1000, COMMITS=100000)
	$(PROOF) groups:: --skip console:: # and consumer_groups::, which the name contains

cost-page: export DURATION_SEC ?= 660
cost-page: ## Measure requests per hour and per GiB, and print what S3 charges for them (DURATION_SEC=660)
	$(PROOF) cost_page::

cost: export PARTITIONS ?= 2000
cost: export DURATION_SEC ?= 30
cost: ## Compare PUTs and etcd writes at 1 and at many partitions (PARTITIONS=2000)
	$(PROOF) cost::

breadth: export PARTITIONS ?= 10000
breadth: export DURATION_SEC ?= 60
breadth: ## Write to many partitions at once (PARTITIONS=10000)
	$(PROOF) breadth::

scale: export PARTITIONS ?= 50000
scale: export DURATION_SEC ?= 30
scale: ## Three brokers with very many partitions, of which one dies (PARTITIONS=50000)
	$(PROOF) scale:: --skip console::

console-scale: export TOPICS ?= 50000
console-scale: export CONSUMER_GROUPS ?= 10000
console-scale: export ASKED ?= 200
console-scale: ## Lists of the console with very many topics and groups (TOPICS=50000, CONSUMER_GROUPS=10000, ASKED=200)
	$(PROOF) console::scale::

console-proof: export SMALL_MIB ?= 64
console-proof: export LARGE_MIB ?= 1024
console-proof: export FIRST_PAGES ?= 3
console-proof: export PAGES_SEC ?= 60
console-proof: export SETTLE_SEC ?= 16
console-proof: export STALLED ?= 100
console-proof: export STALLED_SEC ?= 180
console-proof: export DURATION_SEC ?= 660
console-proof: ## Figures of the console: first page, open pages, stalled browsers, month of the guide (LARGE_MIB=1024, DURATION_SEC=660)
	$(PROOF) console::proof:: --include-ignored --test-threads=1

abuse: export CONNECTIONS ?= 1000
abuse: export SHARE_PERCENT_MIN ?= 80
abuse: export DURATION_SEC ?= 8
abuse: ## Hostile connections beside a good one (CONNECTIONS=1000, SHARE_PERCENT_MIN=80)
	$(PROOF) abuse::

bench: ## Measure; prints one table (ARGS='--help' for stores and workloads)
	@scripts/setup.sh test
	KAFSCALE_TOOLS=$(KAFSCALE_TOOLS) cargo bench --locked --bench load -- $(ARGS)

# New inputs go to the cache folder, a crash to its `artifacts`. The lock file is the product's, plus libfuzzer.
fuzz: TARGET ?= request
fuzz: SECONDS ?= 60
fuzz: $(FUZZ) ## Fuzz one reader of outside bytes (TARGET=request, SECONDS=60; needs Rust nightly)
	@scripts/setup.sh build
	@mkdir -p $(CACHE)/fuzz/corpus/$(TARGET) $(CACHE)/fuzz/artifacts/$(TARGET)
	cp Cargo.lock fuzz/Cargo.lock
	RUSTUP_TOOLCHAIN=nightly $(FUZZ) run --target-dir $(CACHE)/fuzz/target $(TARGET) \
		$(CACHE)/fuzz/corpus/$(TARGET) fuzz/corpus/$(TARGET) -- \
		-max_total_time=$(SECONDS) -max_len=16384 -artifact_prefix=$(CACHE)/fuzz/artifacts/$(TARGET)/

fuzz-seeds: ## Write the seeds in fuzz/corpus again, after a format changed
	cargo test --locked --lib fuzzing::seeds::write_the_seeds -- --ignored

$(FUZZ):
	@echo "==> installing cargo-fuzz $(FUZZ_VERSION) (two minutes, once)"
	cargo install cargo-fuzz --version $(FUZZ_VERSION) --locked --quiet --root $(CACHE)/cargo-fuzz-$(FUZZ_VERSION)

lint: ## Check format, lints, licences and banned dependencies
	@scripts/setup.sh build
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	$(MAKE) --no-print-directory deny

fmt: ## Format the sources
	cargo fmt

deny: $(DENY) ## Check licences, bans and sources of all dependencies
	$(DENY) check bans licenses sources

advisories: $(DENY) ## Check dependencies against the advisory database (needs to reach it)
	$(DENY) check advisories

$(DENY):
	@echo "==> installing cargo-deny $(DENY_VERSION) (five minutes, once)"
	cargo install cargo-deny --version $(DENY_VERSION) --locked --quiet --root $(CACHE)/cargo-deny-$(DENY_VERSION)

tools: ## Install what the tests need, and nothing else
	@scripts/setup.sh test

# Where the chart looks for the image, unless its values say otherwise.
image: IMAGE ?= ghcr.io/kafscale/kafscale
image: TAG ?= v$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
image: ## Build the container image with docker or podman (IMAGE=, TAG=, ENGINE=)
	@scripts/image.sh $(IMAGE) $(TAG)

crds: ## Generate the definitions in the chart from the types in src/operator/crd
	@scripts/setup.sh build
	cargo run --locked --quiet --bin kafscale -- crd > helm/kafscale/files/.crds.yaml.new
	mv helm/kafscale/files/.crds.yaml.new helm/kafscale/files/crds.yaml

docs: ## Generate docs/configuration.md and the table of docs/telemetry.md from the program
	cargo run --locked --quiet --bin kafscale -- config-docs > docs/.configuration.md.new
	mv docs/.configuration.md.new docs/configuration.md
	cargo run --locked --quiet --bin kafscale -- span-docs > docs/.spans.new
	awk '/^<!-- spans:/ { print; while ((getline line < "docs/.spans.new") > 0) print line; skip = 1 } /^<!-- end of spans/ { skip = 0 } !skip' \
		docs/telemetry.md > docs/.telemetry.md.new
	mv docs/.telemetry.md.new docs/telemetry.md
	rm docs/.spans.new
