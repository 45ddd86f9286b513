//! Spark, which is too large for every machine: only `install DIRECTORY spark` brings it.

use super::*;

/// Batches are written and read; a stream reads a topic from its beginning and writes to another, and goes on after a
/// restart of Spark where its checkpoint says.
#[test]
fn spark_reads_and_writes_batches_and_a_stream() {
    let fixture = Fixture::new();
    for parts in [&["batch", "stream"][..], &["again"]] {
        let Some(Program(mut command)) = python("spark", "pyspark", "spark.py") else {
            return;
        };
        command
            .env("SPARK_JARS", kafka_clients().join("spark/kafka-jars"))
            .env("CHECKPOINT", fixture.directory.path().join("checkpoint"));
        let printed = fixture.run(Program(command), "spark", parts);
        let passed = printed.lines().filter(|line| line.ends_with(": passed"));
        assert_eq!(passed.count(), parts.len(), "{printed}");
    }
    assert_eq!(fixture.all_records("spark-out").len(), 2 * COUNT);
}
