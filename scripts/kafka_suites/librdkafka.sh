# shellcheck shell=bash
# librdkafka's own tests, with its default protocol of groups: the members assign.
unset TEST_CONSUMER_GROUP_PROTOCOL
source "$root/scripts/kafka_suites/librdkafka.bash"

names() { all_names; }
