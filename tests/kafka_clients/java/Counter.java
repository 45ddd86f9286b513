package tests;

import java.nio.file.*;
import java.util.*;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.sink.*;
import org.apache.kafka.connect.source.*;

/** A connector that sends the numbers up to `count`, and goes on from its stored offset. */
public class Counter extends SourceConnector {
    private Map<String, String> properties;

    @Override public String version() { return "1"; }
    @Override public void start(Map<String, String> properties) { this.properties = properties; }
    @Override public Class<? extends Task> taskClass() { return Counting.class; }
    @Override public List<Map<String, String>> taskConfigs(int most) { return List.of(properties); }
    @Override public void stop() {}
    @Override public ConfigDef config() { return new ConfigDef(); }

    public static class Counting extends SourceTask {
        private String topic;
        private long next, count;

        @Override public String version() { return "1"; }

        @Override public void start(Map<String, String> properties) {
            topic = properties.get("topic");
            count = Long.parseLong(properties.get("count"));
            Map<String, Object> offset = context.offsetStorageReader().offset(Map.of("counter", topic));
            next = offset == null ? 0 : (Long) offset.get("next");
        }

        @Override public List<SourceRecord> poll() throws InterruptedException {
            if (next >= count) {
                Thread.sleep(20);
                return null;
            }
            long number = next++;
            return List.of(new SourceRecord(
                Map.of("counter", topic), Map.of("next", next), topic, Schema.STRING_SCHEMA, "key-" + number, Schema.INT64_SCHEMA, number));
        }

        @Override public void stop() {}
    }

    /** A connector that appends each value to a file. */
    public static class Lines extends SinkConnector {
        private Map<String, String> properties;

        @Override public String version() { return "1"; }
        @Override public void start(Map<String, String> properties) { this.properties = properties; }
        @Override public Class<? extends Task> taskClass() { return Writing.class; }
        @Override public List<Map<String, String>> taskConfigs(int most) { return Collections.nCopies(most, properties); }
        @Override public void stop() {}
        @Override public ConfigDef config() { return new ConfigDef(); }
    }

    public static class Writing extends SinkTask {
        private Path file;

        @Override public String version() { return "1"; }
        @Override public void start(Map<String, String> properties) { file = Path.of(properties.get("file")); }

        @Override public void put(Collection<SinkRecord> records) {
            StringBuilder lines = new StringBuilder();
            for (SinkRecord record : records) lines.append(record.value()).append('\n');
            try {
                Files.writeString(file, lines, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            } catch (java.io.IOException error) {
                throw new org.apache.kafka.connect.errors.ConnectException(error);
            }
        }

        @Override public void flush(Map<TopicPartition, OffsetAndMetadata> offsets) {}
        @Override public void stop() {}
    }
}
