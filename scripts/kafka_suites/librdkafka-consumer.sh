# shellcheck shell=bash
# The same tests with the protocol of groups in which the server assigns (KIP-848).
export TEST_CONSUMER_GROUP_PROTOCOL=consumer
source "$root/scripts/kafka_suites/librdkafka.bash"

# Those that want a broker; what is out whatever the protocol is not listed again.
names() {
  suite=librdkafka listed in
  # Only this protocol has it.
  echo 0153_memberid
}
