import java.net.http.*;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.BooleanSupplier;
import java.util.regex.Pattern;
import java.util.stream.*;
import javax.security.auth.callback.Callback;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.*;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;

/**
 * Java's clients and Streams.
 *
 * <pre>java -cp 'jars/*' Clients.java KAFKA PREFIX PART...</pre>
 *
 * A part fails by throwing; `../main.rs` says what the parts are.
 */
public class Clients {
    static final int COUNT = 100;
    static final int PARTITIONS = 4;
    static final Duration PATIENCE = Duration.ofSeconds(240);
    static final List<String> CODECS = List.of("gzip", "snappy", "lz4", "zstd");
    static String kafka, prefix;

    public static void main(String[] arguments) throws Exception {
        kafka = arguments[0];
        prefix = arguments[1];
        Map<String, Part> parts = Map.ofEntries(
            Map.entry("records", Clients::records), Map.entry("idempotent", Clients::idempotent), Map.entry("codecs", Clients::codecs),
            Map.entry("binary", Clients::binary), Map.entry("times", Clients::times), Map.entry("commits", Clients::commits),
            Map.entry("after_reset", Clients::afterReset), Map.entry("groups", Clients::groups), Map.entry("static", Clients::staticMembers),
            Map.entry("consumers", Clients::consumers), Map.entry("static_consumers", Clients::staticConsumers),
            Map.entry("expressions", Clients::expressions), Map.entry("beside_http", Clients::besideHttp), Map.entry("topics", Clients::topics),
            Map.entry("list_groups", Clients::listGroups), Map.entry("sign_in", Clients::signIn), Map.entry("refused", Clients::refused),
            Map.entry("kills", Clients::kills), Map.entry("readers", Clients::readers),
            Map.entry("server_side_readers", Clients::serverSideReaders), Map.entry("streams", Clients::streams), Map.entry("first_counts", Clients::firstCounts));
        for (String part : Arrays.asList(arguments).subList(2, arguments.length)) {
            System.out.print(part + ": ");
            System.out.flush();
            parts.get(part).run();
            System.out.println("passed");
        }
        System.exit(0);
    }

    interface Part {
        void run() throws Exception;
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    static String key(int n) {
        return "key-" + n;
    }

    static String value(int n) {
        return "{\"n\":" + n + ",\"text\":\"h\u00e9llo " + "x".repeat(100) + "\"}";
    }

    static long timestamp(int n) {
        return 1_700_000_000_000L + 1000L * n;
    }

    static void check(boolean holds, Object about) {
        if (!holds) throw new AssertionError(String.valueOf(about));
    }

    static void same(Object found, Object expected) {
        check(Objects.equals(found, expected), "found " + found + ", expected " + expected);
    }

    static void until(String what, BooleanSupplier holds) throws InterruptedException {
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (!holds.getAsBoolean()) {
            check(System.nanoTime() < end, "waited in vain: " + what);
            Thread.sleep(5);
        }
    }

    static Properties properties(Object... pairs) {
        Properties all = new Properties();
        all.put("bootstrap.servers", kafka);
        if (System.getenv("PROTOCOL") != null) putAll(all, signedIn(System.getenv("TOKEN")));
        putAll(all, pairs);
        return all;
    }

    static void putAll(Properties all, Object... pairs) {
        for (int i = 0; i < pairs.length; i += 2) all.put(pairs[i], pairs[i + 1]);
    }

    static Object[] with(Object[] pairs, Object... more) {
        return Stream.concat(Arrays.stream(pairs), Arrays.stream(more)).toArray();
    }

    static KafkaProducer<byte[], byte[]> producer(Object... pairs) {
        return new KafkaProducer<>(properties(pairs), new ByteArraySerializer(), new ByteArraySerializer());
    }

    static KafkaConsumer<byte[], byte[]> consumer(Object... pairs) {
        Properties all = properties(pairs);
        all.putIfAbsent("auto.offset.reset", "earliest");
        all.put("enable.auto.commit", "false");
        return new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static List<TopicPartition> partitions(String topic) {
        return IntStream.range(0, PARTITIONS).mapToObj(p -> new TopicPartition(topic, p)).toList();
    }

    static void sendAll(String topic, String codec, Object... pairs) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = producer(with(pairs, "compression.type", codec, "linger.ms", "20"))) {
            for (int n = 0; n < COUNT; n++) {
                var record = new ProducerRecord<>(topic, null, timestamp(n), bytes(key(n)), bytes(value(n)));
                record.headers().add("codec", bytes(codec));
                sent.add(producer.send(record));
            }
        }
        for (var each : sent) each.get(240, TimeUnit.SECONDS);
    }

    static List<ConsumerRecord<byte[], byte[]>> readAll(String topic, int count) throws Exception {
        List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        try (var consumer = consumer()) {
            same(consumer.partitionsFor(topic).size(), PARTITIONS);
            consumer.assign(partitions(topic));
            consumer.seekToBeginning(consumer.assignment());
            until(count + " records of " + topic, () -> {
                consumer.poll(Duration.ofMillis(200)).forEach(found::add);
                return found.size() >= count;
            });
        }
        return found;
    }

    static void sendAndCheck(String topic, String codec, Object... pairs) throws Exception {
        sendAll(topic, codec, pairs);
        var found = readAll(topic, COUNT);
        same(found.size(), COUNT);
        Map<Integer, Long> ends = new HashMap<>();
        Map<Integer, Long> times = new HashMap<>();
        Set<String> seen = new HashSet<>();
        for (var record : found) {
            same(record.offset(), ends.merge(record.partition(), 1L, Long::sum) - 1);
            check(times.getOrDefault(record.partition(), 0L) < record.timestamp(), "order in " + topic);
            times.put(record.partition(), record.timestamp());
            int n = (int) ((record.timestamp() - timestamp(0)) / 1000);
            same(text(record.key()), key(n));
            same(text(record.value()), value(n));
            same(text(record.headers().lastHeader("codec").value()), codec);
            check(seen.add(key(n)), key(n) + " came twice");
        }
    }

    static void records() throws Exception {
        for (String acks : List.of("0", "1", "all"))
            sendAndCheck(prefix + "-none-" + acks, "none", "acks", acks, "enable.idempotence", "false");
    }

    static void idempotent() throws Exception {
        sendAndCheck(prefix + "-none-idempotent", "none");
    }

    static void codecs() throws Exception {
        for (String codec : CODECS)
            for (String acks : List.of("0", "1", "all"))
                sendAndCheck(prefix + "-" + codec + "-" + acks, codec, "acks", acks, "enable.idempotence", "false");
    }

    /** Bytes that are no JSON, an empty value, a tombstone, a record without a key. */
    static void binary() throws Exception {
        String topic = prefix + "-binary";
        byte[][][] sent = {{{0, -1}, {-2, 0}}, {bytes("empty"), {}}, {bytes("tombstone"), null}, {null, bytes("no key")}};
        try (var producer = producer()) {
            for (int i = 0; i < sent.length; i++)
                same(producer.send(new ProducerRecord<>(topic, 1, sent[i][0], sent[i][1])).get(240, TimeUnit.SECONDS).offset(), (long) i);
        }
        var found = readAll(topic, sent.length);
        for (int i = 0; i < sent.length; i++) {
            check(Arrays.equals(found.get(i).key(), sent[i][0]), "key " + i);
            check(Arrays.equals(found.get(i).value(), sent[i][1]), "value " + i);
        }
    }

    static void times() throws Exception {
        String topic = prefix + "-times";
        sendAll(topic, "none");
        List<TopicPartition> all = partitions(topic);
        try (var consumer = consumer()) {
            consumer.assign(all);
            var ends = consumer.endOffsets(all);
            same(ends.values().stream().mapToLong(end -> end).sum(), (long) COUNT);
            same(new HashSet<>(consumer.beginningOffsets(all).values()), Set.of(0L));
            long middle = timestamp(COUNT / 2);
            var found = consumer.offsetsForTimes(all.stream().collect(Collectors.toMap(p -> p, p -> middle)));
            found.forEach((partition, at) -> consumer.seek(partition, at.offset()));
            List<Long> numbers = new ArrayList<>();
            until("the later half", () -> {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> numbers.add(record.timestamp()));
                return numbers.size() >= COUNT - COUNT / 2;
            });
            same(numbers.stream().sorted().toList(), IntStream.range(COUNT / 2, COUNT).mapToObj(Clients::timestamp).toList());
            var late = consumer.offsetsForTimes(all.stream().collect(Collectors.toMap(p -> p, p -> timestamp(COUNT))));
            check(late.values().stream().allMatch(Objects::isNull), late);
            consumer.seekToEnd(all);
            same(consumer.position(all.get(0)), ends.get(all.get(0)));
        }
        try (Admin admin = Admin.create(properties())) {
            var newest = all.stream().collect(Collectors.toMap(p -> p, p -> OffsetSpec.maxTimestamp()));
            long most = get(admin.listOffsets(newest).all()).values().stream().mapToLong(at -> at.timestamp()).max().getAsLong();
            same(most, timestamp(COUNT - 1));
        }
    }

    /** Offsets of a group without members. */
    static void commits() throws Exception {
        String topic = prefix + "-commits";
        sendAll(topic, "none");
        TopicPartition one = new TopicPartition(topic, 1), other = new TopicPartition(topic, 0);
        try (var first = consumer("group.id", topic)) {
            first.assign(List.of(one));
            same(first.committed(Set.of(one)).get(one), null);
            first.commitSync(Map.of(one, new OffsetAndMetadata(7, "seven")));
        }
        try (var second = consumer("group.id", topic)) {
            second.assign(List.of(one));
            var found = second.committed(Set.of(one, other));
            same(found.get(one).offset(), 7L);
            same(found.get(one).metadata(), "seven");
            same(found.get(other), null);
            same(second.position(one), 7L);
        }
    }

    /** The offset that the part commits has committed was reset to 3: the consumer goes on there. */
    static void afterReset() throws Exception {
        TopicPartition one = new TopicPartition(prefix + "-commits", 1);
        try (var consumer = consumer("group.id", one.topic())) {
            consumer.assign(List.of(one));
            same(consumer.committed(Set.of(one)).get(one).offset(), 3L);
            List<Long> offsets = new ArrayList<>();
            until("a record", () -> {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> offsets.add(record.offset()));
                return !offsets.isEmpty();
            });
            same(offsets.get(0), 3L);
        }
    }

    /** A member of a group: it reads in a thread of its own, and counts what is taken from it. */
    static abstract class Reader extends Thread {
        final Set<String> seen;
        final List<String> twice = new CopyOnWriteArrayList<>();
        volatile boolean ends = false;
        volatile Throwable failure;

        Reader(Set<String> seen) {
            this.seen = seen;
            setDaemon(true);
        }

        abstract void read() throws Exception;

        /** How many partitions it has. */
        abstract int partitions();

        @Override public void run() {
            try {
                read();
            } catch (Throwable error) {
                failure = error;
            }
        }

        void note(Object partition, Object offset) {
            if (!seen.add(partition + "@" + offset)) twice.add(partition + "@" + offset);
        }

        boolean has(int count) {
            if (failure != null) throw new AssertionError(failure);
            return partitions() == count;
        }

        void end() throws InterruptedException {
            ends = true;
            join(PATIENCE.toMillis());
            check(!isAlive(), "a member does not end");
            same(failure, null);
            same(twice, List.of());
        }
    }

    static class Member extends Reader implements ConsumerRebalanceListener {
        final KafkaConsumer<byte[], byte[]> consumer;
        volatile Set<TopicPartition> assignment = Set.of();
        volatile int revoked = 0;

        Member(String topic, Set<String> seen, Object... pairs) {
            super(seen);
            Object[] all = with(pairs, "metadata.max.age.ms", "1000");
            // With the server-side protocol the server says how often there are heartbeats.
            boolean isClassic = !Arrays.asList(pairs).contains("group.protocol");
            consumer = consumer(isClassic ? with(all, "heartbeat.interval.ms", "200") : all);
            if (topic.contains("[")) consumer.subscribe(new SubscriptionPattern(topic), this);
            else consumer.subscribe(List.of(topic), this);
            start();
        }

        @Override void read() {
            boolean isCommitted = true;
            while (!ends) {
                var records = consumer.poll(Duration.ofMillis(100));
                for (var record : records) note(record.partition(), record.offset());
                isCommitted &= records.isEmpty();
                try {
                    if (!isCommitted) consumer.commitSync();
                    isCommitted = true;
                } catch (RebalanceInProgressException error) {
                    // A cooperative member goes on reading meanwhile, and commits after the next poll.
                } catch (CommitFailedException error) {
                    lost(error);
                    isCommitted = true;
                }
                assignment = Set.copyOf(consumer.assignment());
            }
            consumer.close();
        }

        @Override int partitions() {
            return assignment.size();
        }

        /** What it wanted to commit is read again. */
        void lost(CommitFailedException error) {
            throw error;
        }

        @Override public void onPartitionsAssigned(Collection<TopicPartition> partitions) {}

        @Override public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            revoked += partitions.size();
        }
    }

    /** The sum of a group's committed offsets, of the topic of the same name. */
    static long committed(String topic) {
        try (var reader = consumer("group.id", topic)) {
            return reader.committed(Set.copyOf(partitions(topic))).values().stream().mapToLong(OffsetAndMetadata::offset).sum();
        }
    }

    static ConsumerGroupDescription described(String group) throws Exception {
        try (Admin admin = Admin.create(properties())) {
            return get(admin.describeConsumerGroups(List.of(group)).all()).get(group);
        }
    }

    /** Two members share a topic, commit, one leaves; nothing comes twice. `revoked`: what the first loses to the second. */
    static void share(String topic, String assignor, int revoked, GroupType type, Object... settings) throws Exception {
        sendAll(topic, "none");
        Object[] pairs = with(settings, "group.id", topic);
        Set<String> seen = ConcurrentHashMap.newKeySet();
        Member first = new Member(topic, seen, pairs);
        until("the first has all", () -> first.has(PARTITIONS) && seen.size() == COUNT);
        Member second = new Member(topic, seen, pairs);
        until("each has a half", () -> first.has(2) && second.has(2));
        check(Collections.disjoint(first.assignment, second.assignment), "they share partitions");
        same(first.revoked, revoked);
        sendAll(topic, "none");
        until("both read the rest", () -> first.has(2) && second.has(2) && seen.size() == 2 * COUNT);
        var described = described(topic);
        same(described.type(), type);
        same(described.partitionAssignor(), assignor);
        same(described.members().size(), 2);
        for (var member : described.members()) {
            same(member.assignment().topicPartitions().size(), 2);
            check(member.clientId().startsWith("consumer-"), member);
        }
        first.end();
        until("the second has all", () -> second.has(PARTITIONS));
        second.end();
        same(committed(topic), 2L * COUNT);
    }

    static void groups() throws Exception {
        String setting = "partition.assignment.strategy";
        for (var each : List.of(new RangeAssignor(), new RoundRobinAssignor(), new StickyAssignor()))
            share(prefix + "-" + each.name(), each.name(), PARTITIONS, GroupType.CLASSIC, setting, each.getClass().getName());
        // A cooperative member keeps what stays with it.
        var cooperative = CooperativeStickyAssignor.class.getName();
        share(prefix + "-cooperative-sticky", "cooperative-sticky", 2, GroupType.CLASSIC, setting, cooperative);
    }

    /** Members by the server-side protocol. */
    static void consumers() throws Exception {
        for (String assignor : List.of("uniform", "range"))
            share(prefix + "-server-" + assignor, assignor, 2, GroupType.CONSUMER, "group.protocol", "consumer", "group.remote.assignor", assignor);
    }

    /** A static member comes back within its session and gets what it had; nobody notices. */
    static void comesBack(String topic, Object... settings) throws Exception {
        sendAll(topic, "none");
        Set<String> seen = ConcurrentHashMap.newKeySet();
        Object[] one = with(settings, "group.id", topic, "group.instance.id", "one");
        Member first = new Member(topic, seen, one);
        Member second = new Member(topic, seen, with(settings, "group.id", topic, "group.instance.id", "two"));
        until("each has a half", () -> first.has(2) && second.has(2));
        int revoked = second.revoked;
        first.end();
        Member again = new Member(topic, seen, one);
        until("it has them again", () -> again.has(2));
        same(again.assignment, first.assignment);
        same(second.revoked, revoked);
        again.end();
        second.end();
    }

    static void staticMembers() throws Exception {
        comesBack(prefix + "-static", "partition.assignment.strategy", RangeAssignor.class.getName());
    }

    static void staticConsumers() throws Exception {
        comesBack(prefix + "-static-consumers", "group.protocol", "consumer");
    }

    /** An expression that the server evaluates; a topic that is made later comes along. */
    static void expressions() throws Exception {
        String topic = prefix + "-expression-";
        sendAll(topic + "1", "none");
        Set<String> seen = ConcurrentHashMap.newKeySet();
        Member member = new Member(topic + "[0-9]+", seen, "group.id", topic, "group.protocol", "consumer");
        until("it has the first", () -> member.has(PARTITIONS));
        sendAll(topic + "22", "none");
        sendAll(topic + "x", "none");
        until("it has the second", () -> member.has(2 * PARTITIONS));
        member.end();
    }

    /** A member over HTTP: it polls until it is to end, and acknowledges what it was given. */
    static class HttpMember extends Reader {
        static final Pattern ASSIGNMENT = Pattern.compile("\"assignment\":\\[(.*?)\\]");
        static final Pattern PLACE = Pattern.compile("\"partition\":(\\d+),\"offset\":(\\d+),");
        static final Pattern POLL = Pattern.compile("\"poll_id\":\"([^\"]*)\"");
        final HttpClient client = HttpClient.newHttpClient();
        final String topic, path;
        volatile int partitions = 0;

        HttpMember(String topic, Set<String> seen) {
            super(seen);
            this.topic = topic;
            path = System.getenv("QUIPU_TEST_HTTP") + "/v1/groups/" + topic + "/members/http";
            start();
        }

        String call(String method, String path, String body) throws Exception {
            var request = HttpRequest.newBuilder(java.net.URI.create(path)).method(method, HttpRequest.BodyPublishers.ofString(body))
                .header("Content-Type", "application/json").build();
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            check(answer.statusCode() < 300, answer.body());
            return answer.body();
        }

        @Override void read() throws Exception {
            String ack = null;
            while (!ends) {
                String quoted = ack == null ? "null" : "\"" + ack + "\"";
                String body = call("POST", path + "/poll", "{\"topics\":[\"" + topic + "\"],\"wait_ms\":200,\"ack\":" + quoted + "}");
                var assignment = ASSIGNMENT.matcher(body);
                check(assignment.find(), body);
                partitions = assignment.group(1).split("\"partition\"", -1).length - 1;
                var places = PLACE.matcher(body);
                while (places.find()) note(places.group(1), places.group(2));
                var poll = POLL.matcher(body);
                check(poll.find(), body);
                ack = poll.group(1);
            }
            call("DELETE", path + "?ack=" + java.net.URLEncoder.encode(ack, StandardCharsets.UTF_8), "");
        }

        @Override int partitions() {
            return partitions;
        }
    }

    /** A consumer and a member over HTTP are members of one group: each record comes to one of them, once. */
    static void besideHttp() throws Exception {
        String topic = prefix + "-beside";
        sendAll(topic, "none");
        Set<String> seen = ConcurrentHashMap.newKeySet();
        Member consumer = new Member(topic, seen, "group.id", topic, "group.protocol", "consumer");
        until("it has all", () -> consumer.has(PARTITIONS) && seen.size() == COUNT);
        HttpMember http = new HttpMember(topic, seen);
        until("each has a half", () -> consumer.has(2) && http.has(2));
        sendAll(topic, "none");
        until("both read the rest", () -> consumer.has(2) && http.has(2) && seen.size() == 2 * COUNT);
        same(described(topic).members().size(), 2);
        consumer.end();
        until("the one over HTTP has all", () -> http.has(PARTITIONS));
        sendAll(topic, "none");
        until("it reads all", () -> seen.size() == 3 * COUNT);
        Member next = new Member(topic, seen, "group.id", topic, "group.protocol", "consumer");
        until("each has a half again", () -> next.has(2) && http.has(2));
        http.end();
        until("the consumer has all", () -> next.has(PARTITIONS));
        next.end();
        same(committed(topic), 3L * COUNT);
    }

    /** Gives the JWT that the configuration has. */
    public static class Bearer implements AuthenticateCallbackHandler {
        private String jwt;

        @Override
        public void configure(Map<String, ?> settings, String mechanism, List<AppConfigurationEntry> modules) {
            jwt = (String) modules.get(0).getOptions().get("password");
        }

        @Override
        public void handle(Callback[] callbacks) {
            for (Callback callback : callbacks) if (callback instanceof OAuthBearerTokenCallback asked) asked.token(new Jwt(jwt));
        }

        @Override
        public void close() {}
    }

    record Jwt(String value) implements OAuthBearerToken {
        @Override
        public Set<String> scope() {
            return Set.of();
        }

        @Override
        public long lifetimeMs() {
            return 4_000_000_000_000L;
        }

        @Override
        public String principalName() {
            return "billing";
        }

        @Override
        public Long startTimeMs() {
            return null;
        }
    }

    /** How to sign in. */
    static Object[] signedIn(String secret) {
        String mechanism = System.getenv("MECHANISM"), authority = System.getenv("CA");
        String module = switch (mechanism) {
            case "PLAIN" -> "plain.PlainLoginModule";
            case "OAUTHBEARER" -> "oauthbearer.OAuthBearerLoginModule";
            default -> "scram.ScramLoginModule";
        };
        String jaas = "org.apache.kafka.common.security." + module + " required username=\"admin\" password=\"" + secret + "\";";
        Object[] how = {"security.protocol", System.getenv("PROTOCOL"), "sasl.mechanism", mechanism, "sasl.jaas.config", jaas};
        if (mechanism.equals("OAUTHBEARER")) how = with(how, "sasl.login.callback.handler.class", Bearer.class.getName());
        return authority.isEmpty() ? how : with(how, "ssl.truststore.type", "PEM", "ssl.truststore.location", authority);
    }

    static void signIn() throws Exception {
        TopicPartition one = new TopicPartition(prefix, 1);
        try (var producer = producer()) {
            same(producer.send(new ProducerRecord<>(prefix, 1, null, bytes("x"))).get().offset(), 0L);
        }
        try (var consumer = consumer()) {
            consumer.assign(List.of(one));
            List<String> found = new ArrayList<>();
            until("the record", () -> {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> found.add(text(record.value())));
                return !found.isEmpty();
            });
            same(found, List.of("x"));
        }
    }

    static void refused() throws Exception {
        try (Admin admin = Admin.create(properties(signedIn(System.getenv("WRONG"))))) {
            get(admin.listTopics().names());
            throw new AssertionError("it has signed in");
        } catch (ExecutionException error) {
            check(error.getCause() instanceof SaslAuthenticationException, error);
            check(error.getMessage().contains("the token is not valid here"), error);
        }
    }

    /** Sends numbers until the file says that it ends; each is stored in the end. */
    static void kills() throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = producer("delivery.timeout.ms", "600000")) {
            while (!isOver()) {
                sent.add(producer.send(new ProducerRecord<>(prefix + "-kills", 0, null, bytes("" + sent.size()))));
                // A bounded number is under way.
                sent.get(Math.max(0, sent.size() - 500)).get();
            }
        }
        for (int n = 0; n < sent.size(); n++) same(sent.get(n).get().offset(), (long) n);
        System.out.print(sent.size() + " ");
    }

    static boolean isOver() {
        return java.nio.file.Files.exists(java.nio.file.Path.of(System.getenv("QUIPU_TEST_STOP")));
    }

    /** Two members that read and commit until the file says that they end; prints what they read. */
    static void read(Object... settings) throws Exception {
        List<Member> both = new ArrayList<>();
        for (int n = 0; n < 2; n++) both.add(new Member("read", Set.of(), with(settings, "group.id", prefix + "-readers")) {
            @Override void note(Object partition, Object offset) {
                System.out.println(partition + "@" + offset);
            }

            // The server-side protocol does not know its members after a restart.
            @Override void lost(CommitFailedException error) {
                if (!Arrays.asList(settings).contains("group.protocol")) super.lost(error);
            }
        });
        while (!isOver()) {
            for (var each : both) each.has(2);
            Thread.sleep(50);
        }
        for (var each : both) each.end();
    }

    static void readers() throws Exception {
        read("partition.assignment.strategy", CooperativeStickyAssignor.class.getName());
    }

    static void serverSideReaders() throws Exception {
        read("group.protocol", "consumer");
    }

    static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(240, TimeUnit.SECONDS);
    }

    static int partitionsOf(Admin admin, String topic) throws Exception {
        return get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic).partitions().size();
    }

    static String config(Admin admin, ConfigResource resource, String name) throws Exception {
        return get(admin.describeConfigs(List.of(resource)).all()).get(resource).get(name).value();
    }

    /** Creates, lists, describes, grows and deletes topics; deletes records; reads and changes a configuration. */
    static void topics() throws Exception {
        String topic = prefix + "-topics";
        try (Admin admin = Admin.create(properties())) {
            get(admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1).configs(Map.of("retention.ms", "3600000")))).all());
            check(get(admin.listTopics().names()).contains(topic), "the list");
            same(partitionsOf(admin, topic), 3);
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            same(config(admin, resource, "retention.ms"), "3600000");
            AlterConfigOp op = new AlterConfigOp(new ConfigEntry("retention.ms", "7200000"), AlterConfigOp.OpType.SET);
            get(admin.incrementalAlterConfigs(Map.of(resource, List.of(op))).all());
            same(config(admin, resource, "retention.ms"), "7200000");
            same(config(admin, new ConfigResource(ConfigResource.Type.BROKER, "0"), "broker.id"), "0");
            get(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all());
            same(partitionsOf(admin, topic), 5);
            try (var producer = producer()) {
                for (int i = 0; i < 10; i++) producer.send(new ProducerRecord<>(topic, 0, null, bytes("1")));
            }
            TopicPartition first = new TopicPartition(topic, 0);
            get(admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(4))).all());
            same(get(admin.listOffsets(Map.of(first, OffsetSpec.earliest())).all()).get(first).offset(), 4L);
            same(get(admin.listOffsets(Map.of(first, OffsetSpec.latest())).all()).get(first).offset(), 10L);
            try {
                get(admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1))).all());
                throw new AssertionError("a topic was created twice");
            } catch (ExecutionException error) {
                check(error.getCause() instanceof TopicExistsException, error);
            }
            // The producer above was an idempotent one.
            same(get(admin.describeProducers(List.of(first)).all()).get(first).activeProducers().size(), 1);
            var nodes = get(admin.describeCluster().nodes()).stream().map(Node::id).toList();
            same(nodes, List.of(0));
            same(get(admin.describeLogDirs(nodes).allDescriptions()).keySet(), Set.of(0));
            get(admin.deleteTopics(List.of(topic)).all());
            check(!get(admin.listTopics().names()).contains(topic), "the list");
        }
    }

    /** Lists, describes and deletes groups; reads and changes their offsets. */
    static void listGroups() throws Exception {
        String topic = prefix + "-listed";
        sendAll(topic, "none");
        Set<String> seen = ConcurrentHashMap.newKeySet();
        Member one = new Member(topic, seen, "group.id", topic);
        until("it has all", () -> one.has(PARTITIONS) && seen.size() == COUNT);
        try (Admin admin = Admin.create(properties())) {
            check(get(admin.listGroups().all()).stream().anyMatch(group -> group.groupId().equals(topic)), "the list");
            var described = described(topic);
            same(described.groupState(), GroupState.STABLE);
            same(described.members().size(), 1);
            same(described.members().iterator().next().assignment().topicPartitions().size(), PARTITIONS);
            one.end();
            var offsets = get(admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata());
            same(offsets.values().stream().mapToLong(OffsetAndMetadata::offset).sum(), (long) COUNT);
            TopicPartition first = new TopicPartition(topic, 0);
            get(admin.alterConsumerGroupOffsets(topic, Map.of(first, new OffsetAndMetadata(1))).all());
            same(get(admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata()).get(first).offset(), 1L);
            get(admin.deleteConsumerGroupOffsets(topic, Set.of(first)).all());
            check(!get(admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata()).containsKey(first), "a deleted offset");
            get(admin.deleteConsumerGroups(List.of(topic)).all());
            check(get(admin.listGroups().all()).stream().noneMatch(group -> group.groupId().equals(topic)), "the list");
        }
    }

    /** An instance that counts words over a repartition topic and a store whose changelog is compacted. */
    static KafkaStreams counting(String in, String out) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(in, Consumed.with(Serdes.String(), Serdes.String()))
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.<String, Long>as(org.apache.kafka.streams.state.Stores.inMemoryKeyValueStore("words"))
                .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream().to(out, Produced.with(Serdes.String(), Serdes.Long()));
        KafkaStreams streams = new KafkaStreams(builder.build(), properties(
            "application.id", prefix + "-streams", "commit.interval.ms", "100", "auto.offset.reset", "earliest",
            "statestore.cache.max.bytes", "0", "session.timeout.ms", "15000", "heartbeat.interval.ms", "200",
            "state.dir", java.nio.file.Files.createTempDirectory("streams").toString()));
        streams.start();
        return streams;
    }

    static boolean works(KafkaStreams streams) {
        return streams.metadataForLocalThreads().stream().anyMatch(thread -> !thread.activeTasks().isEmpty());
    }

    /** Sends lines, and waits until the words are counted that many times. */
    static void counts(String in, String out, int rounds) throws Exception {
        try (var producer = producer()) {
            for (int i = 0; i < 10; i++) producer.send(new ProducerRecord<>(in, bytes("k" + i), bytes("one two two")));
        }
        Map<String, Long> counts = new TreeMap<>();
        Map<String, Long> expected = Map.of("one", 10L * rounds, "two", 20L * rounds);
        try (var reader = new KafkaConsumer<>(properties(), new StringDeserializer(), new LongDeserializer())) {
            var all = List.of(new TopicPartition(out, 0), new TopicPartition(out, 1));
            reader.assign(all);
            reader.seekToBeginning(all);
            until("the counts of round " + rounds, () -> {
                reader.poll(Duration.ofMillis(200)).forEach(record -> counts.put(record.key(), record.value()));
                return counts.equals(expected);
            });
        }
    }

    /** Counts; stops, and goes on from the changelog; shares the work with a second instance, which then does it alone. */
    static void streams() throws Exception {
        firstCounts();
        String in = prefix + "-lines", out = prefix + "-counts";
        KafkaStreams again = counting(in, out);
        counts(in, out, 2);
        KafkaStreams second = counting(in, out);
        until("both have tasks", () -> works(again) && works(second));
        counts(in, out, 3);
        check(again.close(PATIENCE), "it does not close");
        counts(in, out, 4);
        check(second.close(PATIENCE), "it does not close");
    }

    /** Topics of their own, and one instance that counts once. */
    static void firstCounts() throws Exception {
        String in = prefix + "-lines", out = prefix + "-counts";
        try (Admin admin = Admin.create(properties())) {
            get(admin.createTopics(List.of(new NewTopic(in, 2, (short) 1), new NewTopic(out, 2, (short) 1))).all());
        }
        KafkaStreams first = counting(in, out);
        counts(in, out, 1);
        check(first.close(PATIENCE), "it does not close");
    }
}
