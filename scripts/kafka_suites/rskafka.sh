# shellcheck shell=bash
# The tests of the crate rskafka that want a broker. Some of them have a record pass between rskafka and librdkafka or Java's
# client; for the latter they need a JDK, and jars from Maven Central, which they would fetch themselves.

rskafka=0.6.0
sources=$home/rskafka-$rskafka
files=(client consumer produce_consume producer)

# A test takes `jassets`, where its jars are, from beside itself.
export CARGO_TARGET_DIR=$home/target
java=$(readlink -f "$(command -v javac)") || { echo "there is no javac" >&2; exit 1; }
export LD_LIBRARY_PATH=${java%/bin/javac}/lib/server

build() {
  if [[ ! -d $sources ]]; then
    fetch_crate rskafka "$rskafka"
    # Beside its place: a copy that was cut off begins again.
    rm -rf copying
    cp -r "$source" copying
    cd copying || return
    # It lies in the workspace of another package.
    printf '\n[workspace]\n' >>Cargo.toml
    # rsasl 2.2.0 does not compile with a newer compiler than the one that it asks for.
    rm rust-toolchain.toml
    cargo update --quiet rsasl --precise 2.2.1
    cd "$home" || return
    mv copying "$sources"
  fi
  (cd "$sources" && CARGO_PROFILE_DEV_DEBUG=0 cargo test --locked --no-run --tests) >build.log 2>&1 || { tail -n 20 build.log >&2; return 1; }
  local artifact name
  for artifact in $(sed -n 's/^ *"\([a-z0-9.]*:[a-z0-9-]*:[0-9.-]*\)",$/\1/p' "$sources/tests/java_helper.rs"); do
    name=${artifact#*:}
    [[ -f target/debug/jassets/${name/:/-}.jar ]] ||
      mvn -q -B dependency:copy "-Dartifact=$artifact" "-DoutputDirectory=$home/target/debug/jassets" >mvn.log 2>&1 || { tail -n 20 mvn.log >&2; return 1; }
  done
}

# The program of a file of tests.
program() { sed -n "s|.*Executable tests/$1.rs (\(.*\))|\1|p" build.log; }

names() {
  local file
  for file in "${files[@]}"; do
    "$(program "$file")" --list 2>/dev/null | sed -n "s/: test$//p" | sed "s/^/$file::/"
  done
  # These are compiled only with features of the crate that are off.
  sed -n '/cfg(feature = "transport/,/async fn/s/^async fn \([a-z_0-9]*\).*/client::\1/p' "$sources/tests/client.rs"
}

run() {
  serve --kafka-auto-create=off
  export TEST_INTEGRATION=1 TEST_BROKER_IMPL=kafka TEST_JAVA_INTEROPT=1 KAFKA_CONNECT=$kafka
  local name log
  mkdir -p logs
  while read -r name; do
    log=$home/logs/$name
    if timeout --kill-after=5 480 "$(program "${name%%::*}")" --exact "${name#*::}" >"$log" 2>&1 && grep -q '^test result: ok. 1 passed' "$log"; then
      echo "passed $name"
    else
      echo "failed $name, see $log"
    fi
  done <"$1"
}
