# shellcheck shell=bash
# librdkafka's own tests, which the crate rdkafka-sys has in its sources (it has no tests of its own that need a broker).

rdkafka_sys=4.10.0+2.12.1
runner=$home/librdkafka/tests/test-runner

build() {
  [[ ! -x $runner ]] || return 0
  mkdir -p fetch/src
  : >fetch/src/lib.rs
  printf '[package]\nname = "fetch"\nedition = "2024"\n[dependencies]\nrdkafka-sys = "=%s"\n[workspace]\n' "$rdkafka_sys" >fetch/Cargo.toml
  cargo fetch --quiet --manifest-path fetch/Cargo.toml
  local sources=("${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"rdkafka-sys-$rdkafka_sys/librdkafka")
  # Built beside its place: a build that was cut off begins again.
  rm -rf librdkafka building
  cp -r "${sources[0]}" building
  (
    cd building
    ./configure --disable-gssapi --disable-curl
    make libs
    make -C tests build
  ) >build.log 2>&1 || { tail -n 20 build.log >&2; return 1; }
  mv building librdkafka
}

names() { sed -n 's/^ *_TEST(\([0-9][^,]*\),.*/\1/p' librdkafka/tests/test.c; }

# Runs the tests of one number (the runner knows no other choice) and prints how those of them that are wanted have ended.
# The runner has a limit of time for each test; the one here is for a runner that hangs.
run_number() {
  local scenario=$1 number=$2 wanted=$3 dir=$home/librdkafka/run-$1-$2
  rm -rf "$dir"
  mkdir -p "$dir"
  cd "$dir" || return
  {
    echo "bootstrap.servers=$kafka"
    # Several tests run at once, beside their server.
    echo "test.timeout.multiplier=2"
  } >test.conf
  local libraries=$home/librdkafka/src:$home/librdkafka/src-cpp
  # The outer redirection is for what the shell says about a runner that aborts.
  {
    TESTS=$number TEST_REPORT=$dir/report.json TEST_KAFKA_VERSION=4.1.0 LD_LIBRARY_PATH=$libraries \
      timeout --kill-after=5 300 "$runner" -p1 -L -r -s "$scenario" >"$dir/log" 2>&1 || true
  } 2>/dev/null
  local name state
  while read -r name; do
    state=$(grep -o "\"name\": \"$name\", \"state\": \"[A-Z_]*\"" report.json | sed 's/.*"\([A-Z_]*\)"$/\1/' | tail -n 1 || true)
    case $state in
      PASSED) echo "passed $name" ;;
      SKIPPED) ;; # The other scenario runs it.
      *) echo "failed $name ${state:-no report}, see $dir/log" ;;
    esac
  done < <(grep "^${number}_" "$wanted" || true)
}

run() {
  local scenario
  for scenario in default noautocreate; do
    # Kafka has no limits of its own for keys and headers.
    local settings=(--kafka-any-replication --max-key-bytes 1MiB --max-record-headers 1000)
    [[ $scenario = default ]] || settings+=(--kafka-auto-create=off)
    serve "${settings[@]}"
    export -f run_number
    export home runner kafka
    cut -d_ -f1 "$1" | sort -u | xargs -P "${KAFKA_SUITES_JOBS:-4}" -I{} bash -c 'run_number "$@"' _ "$scenario" {} "$1"
  done
}
