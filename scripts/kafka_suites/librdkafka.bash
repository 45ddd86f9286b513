# shellcheck shell=bash
# librdkafka's own tests, which the crate rdkafka-sys has in its sources (it has no tests of its own that need a broker). They are built once, for
# both protocols of groups.

rdkafka_sys=4.10.0+2.12.1
built=$root/target/kafka-suites/librdkafka
runner=$built/librdkafka/tests/test-runner

build() {
  mkdir -p "$built"
  cd "$built" || return
  build_topics_script
  [[ ! -x $runner ]] || return 0
  fetch_crate rdkafka-sys "$rdkafka_sys"
  # Some tests check JSON, with a library that is headers alone.
  [[ -f /usr/include/rapidjson/schema.h ]] || timeout 180 bash -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends rapidjson-dev' >/dev/null 2>&1 ||
    echo "the package rapidjson-dev could not be installed: tests that need it will fail" >&2
  # Built beside its place: a build that was cut off begins again.
  rm -rf librdkafka building
  cp -r "$source/librdkafka" building
  (
    cd building
    ./configure --disable-gssapi --disable-curl
    make libs
    make -C tests build
  ) >build.log 2>&1 || { tail -n 20 build.log >&2; return 1; }
  mv building librdkafka
}

# Some tests call `kafka-topics.sh` of a Kafka installation: the same program, from its registry.
build_topics_script() {
  [[ ! -x kafka/bin/kafka-topics.sh ]] || return 0
  mkdir -p kafka/bin
  mvn -q -B -f "$root/tests/kafka_clients/java/pom.xml" dependency:copy-dependencies -DoutputDirectory="$built/kafka/jars" >build.log 2>&1 ||
    { tail -n 20 build.log >&2; return 1; }
  # shellcheck disable=SC2016
  printf '#!/bin/sh\nexec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "%s/*" org.apache.kafka.tools.TopicCommand "$@"\n' "$built/kafka/jars" >kafka/bin/kafka-topics.sh
  chmod +x kafka/bin/kafka-topics.sh
}

# Every test that the runner has.
all_names() { sed -n 's/^ *_TEST(\([0-9][^,]*\),.*/\1/p' "$built/librdkafka/tests/test.c"; }

# Runs the tests of one number (the runner knows no other choice) in one of its scenarios, and prints how those of them that are wanted
# have ended. The runner has a limit of time for each test; the one here is for a runner that hangs.
run_number() {
  # A test looks for files in ../src.
  local scenario=$1 number=$2 wanted=$3 dir=$built/librdkafka/run-$suite-$1-$2
  rm -rf "$dir"
  mkdir -p "$dir"
  cd "$dir" || return
  {
    echo "bootstrap.servers=$kafka"
    # Several tests run at once, beside their server.
    echo "test.timeout.multiplier=2"
    if [[ $scenario = sasl ]]; then
      printf '%s\n' security.protocol=sasl_plaintext sasl.mechanism=SCRAM-SHA-512 sasl.username=admin "sasl.password=$QUIPU_ADMIN_TOKEN"
      scenario=default
    fi
  } >test.conf
  # librdkafka loses track of its state if a server that assigns answers faster than its own threads, and its user, go on: a member that has
  # left after `max.poll.interval.ms` forgets that it is to join again (the answer clears `WAIT_REJOIN`), and one that is told to give
  # partitions up just before its user unsubscribes and subscribes stays without any. Tests that do so run over the runner's own
  # connections, which make each answer as late as that of a server with a network and replicas.
  local delay=
  [[ $suite:$number != librdkafka-consumer:@(0045|0089|0113) ]] || delay=delay=30
  local libraries=$built/librdkafka/src:$built/librdkafka/src-cpp
  # The outer redirection is for what the shell says about a runner that aborts.
  {
    TEST_SOCKEM=$delay KAFKA_PATH=$built/kafka BROKERS=$kafka TESTS=$number TEST_REPORT=$dir/report.json TEST_KAFKA_VERSION=4.1.0 LD_LIBRARY_PATH=$libraries \
      timeout --kill-after=5 1800 "$runner" -p1 -L -r -s "$scenario" >"$dir/log" 2>&1 || true
  } 2>/dev/null
  local name state
  while read -r name; do
    state=$(grep -so "\"name\": \"$name\", \"state\": \"[A-Z_]*\"" report.json | sed 's/.*"\([A-Z_]*\)"$/\1/' | tail -n 1 || true)
    case $state in
      PASSED) echo "passed $name" ;;
      SKIPPED) ;; # Another scenario runs it.
      *) echo "failed $name ${state:-no report}, see $dir/log" ;;
    esac
  done < <(grep "^${number}_" "$wanted" || true)
}

# SCENARIO FILE SETTING…: runs the tests of FILE that the scenario has, on a server with these settings.
run_scenario() {
  local scenario=$1 wanted=$2
  shift 2
  # Kafka has no limits of its own for keys and headers.
  serve --kafka-any-replication --max-key-bytes 1MiB --max-record-headers 1000 "$@"
  export kafka
  # They wait most of the time. The longest first.
  { grep -E "^($slow)_" "$wanted" || true; cat "$wanted"; } | cut -d_ -f1 | awk '!seen[$0]++' |
    xargs -P "${KAFKA_SUITES_JOBS:-8}" -I{} bash -c 'run_number "$@"' _ "$scenario" {} "$wanted"
}
slow='0113|0045|0102|0089|0094|0076|0026|0091|0107'

run() {
  export -f run_number
  export suite built runner QUIPU_ADMIN_TOKEN=an-administrators-token-of-a-test
  run_scenario default "$1"
  grep -E '^(0045|0107|0111)_' "$1" >others || true
  run_scenario noautocreate "$home/others" --kafka-auto-create=off
  grep '^0135_' "$1" >others || true
  run_scenario sasl "$home/others" --auth tokens
}
