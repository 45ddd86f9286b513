# shellcheck shell=bash
# The integration tests in the sdist of kafka-python 3.
kafka_python=3.0.12
# The version of Kafka that the server is like, as the client infers it from the APIs that are offered.
kafka_version=4.3
# The client forgets a subscription that is made while its first request for metadata is under way, until the next one, five minutes
# later (a TODO in its `ClusterMetadata.set_topics`). A test that subscribes as soon as it has a consumer may run into that: it is
# tried up to five times.
again='::test_idempotent_producer_max_in_flight\['
source "$root/scripts/kafka_suites/kafka_python.bash"
