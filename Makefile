# The usual ways, one word each. All of it is CMake presets and scripts that can be typed by hand.
PREFIX ?= /usr/local
JOBS ?= 2
FUZZ_SECONDS ?= 60

sources = find include src cli tests bench examples python -name '*.[ch]' -o -name '*.[ch]pp' | sort

.PHONY: help setup build run test bench fuzz format check-format tidy install clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what building and testing needs
	@scripts/setup.sh

# Ninja configures again by itself when a CMake file changes.
build/%/build.ninja: | setup
	@cmake --preset $* >/dev/null

build: build/release/build.ninja setup ## build everything
	@cmake --build --preset release

run: build/release/build.ninja setup ## run the demo, which writes build/report.html
	@cmake --build --preset release --target switchyard-cli
	@build/release/cli/switchyard demo --report build/report.html

test: build ## run all tests
	@ctest --preset release -j $(JOBS)

bench: setup ## run the benchmarks
	@cmake --preset release -B build/bench -DSWITCHYARD_BENCH=ON -DSWITCHYARD_TESTS=OFF >/dev/null
	@cmake --build build/bench --target layer_bench route_bench gemm_bench threads_bench
	@build/bench/bench/layer_bench
	@build/bench/bench/route_bench
	@build/bench/bench/gemm_bench
	@build/bench/bench/threads_bench

fuzz: setup ## run the fuzz targets for FUZZ_SECONDS (needs clang)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

format: ## format all C and C++ files
	@$(sources) | xargs clang-format -i

check-format: ## fail if a file is not formatted
	@$(sources) | xargs clang-format --dry-run --Werror

tidy: setup ## run clang-tidy
	@cmake --preset release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >/dev/null
	@find src cli -name '*.cpp' | sort | xargs -n 1 -P $(JOBS) clang-tidy --quiet -p build/release \
	  --extra-arg=-Wno-unknown-warning-option

install: build/release/build.ninja setup ## install library, headers and program below PREFIX
	@cmake --build --preset release --target switchyard switchyard-cli
	@cmake --install build/release --prefix $(PREFIX)

clean: ## remove all that was built
	@rm -rf build
