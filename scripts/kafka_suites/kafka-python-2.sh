# shellcheck shell=bash
# The integration tests in the sdist of kafka-python 2, which many still use.
kafka_python=2.3.3
# The version of Kafka that the server is like, as the client infers it from the APIs that are offered.
kafka_version=2.5
prepare=
source "$root/scripts/kafka_suites/kafka_python.bash"
