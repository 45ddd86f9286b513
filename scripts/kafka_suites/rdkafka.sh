# shellcheck shell=bash
# The integration tests of the crate rdkafka, in its sources.

rdkafka=0.39.0
crate=$home/rdkafka-$rdkafka

build() {
  if [[ ! -d $crate ]]; then
    fetch_crate rdkafka "$rdkafka"
    rm -rf fetched
    cp -r "$source" fetched
    # The crate is a workspace by itself; and its topics and groups are named __test_…: that beginning is for quipu's own.
    printf '\n[workspace]\n' >>fetched/Cargo.toml
    sed -i 's/format!("__/format!("/' fetched/tests/utils.rs
    mv fetched "$crate"
  fi
  CARGO_TARGET_DIR=$crate/target CARGO_PROFILE_DEV_DEBUG=0 cargo test --quiet --locked --manifest-path "$crate/Cargo.toml" --tests --no-run >build.log 2>&1 ||
    { tail -n 20 build.log >&2; return 1; }
}

# The newest build of each file of tests.
binaries() {
  local file
  for file in "$crate"/tests/test_*.rs; do
    file=${file##*/}
    find "$crate/target/debug/deps" -name "${file%.rs}-*" -executable -type f -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d' ' -f2
  done
}

# FILE::TEST. The test of what they share is there once a file.
names() {
  local binary file
  binaries | while read -r binary; do
    file=${binary##*/}
    "$binary" --list | sed -n "s/^\(.*\): test$/${file%-*}::\1/p"
  done
}

run() {
  local binary file name tests
  # Two tests know the port.
  serve --kafka-listen 127.0.0.1:9092 --kafka-partitions 3
  export KAFKA_HOST=$kafka KAFKA_VERSION=4.1
  binaries | while read -r binary; do
    file=${binary##*/}
    file=${file%-*}
    mapfile -t tests < <(sed -n "s/^$file:://p" "$1")
    ((${#tests[@]})) || continue
    timeout --kill-after=5 1200 "$binary" --test-threads 1 --exact "${tests[@]}" >"$file.log" 2>&1 || true
    for name in "${tests[@]}"; do
      # Between a test's name and its end there may be lines of the log.
      if sed -n '/^failures:$/,$p' "$file.log" | grep -qxF "    $name" || ! grep -q "^test $name \.\.\." "$file.log" || ! grep -q '^test result: ' "$file.log"; then
        echo "failed $file::$name see $home/$file.log"
      else
        echo "passed $file::$name"
      fi
    done
  done
}
