# shellcheck shell=bash
# The integration tests in the sdist of kafka-python 3.
kafka_python=3.0.12
# The version of Kafka that the server is like, as the client infers it from the APIs that are offered.
kafka_version=4.3
# The client forgets a subscription that is made while its first request for metadata is under way, until the next one (a TODO in its
# `ClusterMetadata.set_topics`), and a test that subscribes as soon as it has a consumer may run into that. The next request is five
# minutes later by default, and tests wait 30 seconds.
prepare='from kafka import KafkaConsumer; KafkaConsumer.DEFAULT_CONFIG["metadata_max_age_ms"] = 1000'
source "$root/scripts/kafka_suites/kafka_python.bash"
