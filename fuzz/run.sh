#!/usr/bin/env bash
# Builds every fuzz target and runs each for some seconds from its seeds: fuzz/run.sh SECONDS [SEED].
#
# With a SEED every run tries the same inputs in the same order, as far as its seconds reach.
# A finding fails the run; its input stays in fuzz/artifacts. FUZZ_JOBS targets run at once.
set -euo pipefail
cd "$(dirname "$0")"
export seconds=$1 seed=${2:-0} host target_dir work
host=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-target}/$host/debug

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
# cargo-fuzz has no --locked.
cargo fetch --locked --quiet
# No sanitizer: our code forbids unsafe, and one would double the time of the build. No
# cfg(fuzzing): what is fuzzed is what is shipped, as are the checks in its dependencies.
cargo fuzz build --fuzz-dir . --dev --sanitizer none --no-cfg-fuzzing

# Layers are unpacked beneath TMPDIR: on tmpfs where there is one.
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" fuzz.XXXXXX)
trap 'rm -rf "$work"' EXIT

run() {
  local target=$1 log=$work/$1.log dictionary=()
  mkdir -p "artifacts/$target" "$work/$target/"{corpus,tmp}
  [ -f "dictionaries/$target" ] && dictionary=(-dict="dictionaries/$target")
  local status=0
  RUST_BACKTRACE=0 TMPDIR=$work/$target/tmp "$target_dir/$target" -max_total_time="$seconds" -seed="$seed" -rss_limit_mb=1024 \
    -timeout=5 -print_final_stats=1 -artifact_prefix="artifacts/$target/" "${dictionary[@]}" \
    "$work/$target/corpus" "seeds/$target" > "$log" 2>&1 || status=$?
  value() { sed -n "s/.*$1 *\([0-9]\+\).*/\1/p" "$log" | tail -1; }
  printf '%-22s %9s executions, %6s a second, coverage %5s, %4s MiB\n' "$target" \
    "$(value number_of_executed_units:)" "$(value average_exec_per_sec:)" "$(value cov:)" \
    "$(value peak_rss_mb:)"
  [ "$status" -eq 0 ] && return
  sed 's/^/  /' <(tail -40 "$log")
  echo "$target: a finding; run it again with target/$host/debug/$target ARTIFACT in fuzz/" >&2
  return 1
}
export -f run
cargo fuzz list --fuzz-dir . | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I{} bash -euo pipefail -c 'run {}'
