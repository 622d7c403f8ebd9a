# What people and CI run. Everything is done by `cargo xtask` and `farplane`.
# NAME=x chooses a hub other than the default one.

# Outside of the clone, so that a fresh one starts warm.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/farplane/target

name = $(if $(NAME),--name $(NAME))

.PHONY: deps build up down purge test bench bench-functions lint deny docs fmt ci

# Even `cargo xtask` cannot be linked without a C compiler.
deps:
	@command -v cc >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends gcc libc6-dev; }
	cargo xtask deps

build: deps
	cargo xtask build $(if $(COMPONENTS),--components $(COMPONENTS))

up: build
	dist/bin/farplane up --demo $(name)

down:
	dist/bin/farplane down $(name)

purge:
	dist/bin/farplane down --purge $(name)

test:
	cargo xtask test

bench:
	cargo xtask bench

bench-functions:
	cargo xtask bench --functions

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo xtask check

deny:
	cargo xtask deny

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

fmt:
	cargo fmt --all

ci:
	.ci/run
