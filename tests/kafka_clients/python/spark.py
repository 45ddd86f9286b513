"""Spark: batches, and a stream with a checkpoint. SPARK_JARS has the jars of its connector, CHECKPOINT is the stream's."""

import os
from pathlib import Path

from pyspark.sql import SparkSession, functions

from shared import COUNT, KAFKA, PREFIX, parts

jars = ",".join(map(str, Path(os.environ["SPARK_JARS"]).glob("*.jar")))
settings = {"spark.jars": jars, "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2", "spark.driver.host": "127.0.0.1"}
spark = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
IN, OUT = f"{PREFIX}-in", f"{PREFIX}-out"


def of(source):
    return source.format("kafka").option("kafka.bootstrap.servers", KAFKA)


def send(first):
    """Writes COUNT records to the topic that the stream reads."""
    number = functions.col("id")
    rows = spark.range(first, first + COUNT).select(functions.concat(functions.lit("key-"), number).alias("key"), number.cast("string").alias("value"))
    of(rows.write).option("topic", IN).save()


def read(topic, **options):
    """The numbers of a topic in a batch from the first to the last record, sorted."""
    found = of(spark.read).option("subscribe", topic).options(**{"startingOffsets": "earliest", **options}).load()
    return sorted(int(row.value) for row in found.select(found.value.cast("string")).collect())


def batch():
    send(0)
    assert read(IN) == list(range(COUNT)), read(IN)
    assert read(IN, startingTimestamp="0") == list(range(COUNT))
    offsets = '{"%s":{"0":3,"1":-2,"2":-2,"3":-2}}' % IN
    assert len(read(IN, startingOffsets=offsets)) == COUNT - 3


def run(wanted):
    """Lets the stream catch up, in steps; the rows that it has read."""
    source = of(spark.readStream).options(subscribePattern=f"{PREFIX}-i.*", startingOffsets="earliest", maxOffsetsPerTrigger="30").load()
    doubled = source.select("key", (source.value.cast("string").cast("long") * 2).cast("string").alias("value"))
    query = of(doubled.writeStream).option("topic", OUT).option("checkpointLocation", os.environ["CHECKPOINT"]).trigger(availableNow=True).start()
    query.awaitTermination()
    rows = sum(progress["numInputRows"] for progress in query.recentProgress)
    assert rows == wanted, rows


def stream():
    run(COUNT)
    assert read(OUT) == [2 * n for n in range(COUNT)]


def again():
    """In another process: it goes on where the checkpoint says."""
    send(COUNT)
    run(COUNT)
    assert read(OUT) == [2 * n for n in range(2 * COUNT)]
    run(0)


parts({"batch": batch, "stream": stream, "again": again})
