// franz-go.
//
//	franz-go KAFKA PREFIX PART...
//
// A part fails by a panic; `../main.rs` says what the parts are.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const (
	count      = 100
	partitions = 4
	patience   = 240 * time.Second
)

var (
	prefix  string
	address string
	codecs  = map[string]kgo.CompressionCodec{
		"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
)

func main() {
	address, prefix = os.Args[1], os.Args[2]
	parts := map[string]func(context.Context){
		"records": records, "idempotent": idempotent, "codecs": compressed, "binary": binary, "times": times, "commits": commits,
		"seek": seek, "groups": groups, "consumers": consumers, "static": static, "topics": topics, "list_groups": listGroups, "sign_in": signIn, "refused": refused, "kills": kills,
		"readers":             func(context.Context) { readers(kgo.Balancers(kgo.CooperativeStickyBalancer())) },
		"server_side_readers": func(context.Context) { readers(kgo.ServerSideBalancer()) },
	}
	for _, part := range os.Args[3:] {
		fmt.Print(part, ": ")
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		parts[part](ctx)
		cancel()
		fmt.Println("passed")
	}
}

func check(holds bool, about ...any) {
	if !holds {
		panic(fmt.Sprint(about...))
	}
}

func must[T any](value T, err error) T {
	check(err == nil, err)
	return value
}

func key(n int) string { return fmt.Sprintf("key-%d", n) }
func value(n int) string {
	return fmt.Sprintf(`{"n":%d,"text":"héllo %s"}`, n, strings.Repeat("x", 100))
}
func at(n int) time.Time { return time.UnixMilli(1_700_000_000_000 + 1000*int64(n)) }

func client(options ...kgo.Opt) *kgo.Client {
	all := append([]kgo.Opt{kgo.SeedBrokers(address), kgo.AllowAutoTopicCreation()}, options...)
	return must(kgo.NewClient(all...))
}

func sendAll(ctx context.Context, topic, codec string, options ...kgo.Opt) {
	if codec == "none" {
		options = append(options, kgo.ProducerBatchCompression(kgo.NoCompression()))
	} else {
		options = append(options, kgo.ProducerBatchCompression(codecs[codec]))
	}
	sender := client(append(options, kgo.ProducerLinger(20*time.Millisecond))...)
	defer sender.Close()
	var all []*kgo.Record
	for n := range count {
		header := kgo.RecordHeader{Key: "codec", Value: []byte(codec)}
		all = append(all, &kgo.Record{
			Topic: topic, Key: []byte(key(n)), Value: []byte(value(n)), Timestamp: at(n), Headers: []kgo.RecordHeader{header}})
	}
	check(sender.ProduceSync(ctx, all...).FirstErr() == nil, topic)
}

func from(topic string, offset kgo.Offset) map[string]map[int32]kgo.Offset {
	all := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		all[p] = offset
	}
	return map[string]map[int32]kgo.Offset{topic: all}
}

func readAll(ctx context.Context, topic string, wanted int) []*kgo.Record {
	reader := client(kgo.ConsumePartitions(from(topic, kgo.NewOffset().AtStart())))
	defer reader.Close()
	var found []*kgo.Record
	for len(found) < wanted {
		fetches := reader.PollFetches(ctx)
		check(fetches.Err() == nil, fetches.Err())
		found = append(found, fetches.Records()...)
	}
	return found
}

func sendAndCheck(ctx context.Context, topic, codec string, options ...kgo.Opt) {
	sendAll(ctx, topic, codec, options...)
	found, ends := readAll(ctx, topic, count), map[int32]int64{}
	times := map[int32]time.Time{}
	check(len(found) == count, topic, len(found))
	for _, record := range found {
		check(record.Offset == ends[record.Partition], "offsets of ", topic)
		check(times[record.Partition].Before(record.Timestamp), "order in ", topic)
		ends[record.Partition], times[record.Partition] = record.Offset+1, record.Timestamp
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Timestamp.Before(found[j].Timestamp) })
	for n, record := range found {
		check(record.Timestamp.Equal(at(n)) && string(record.Key) == key(n) && string(record.Value) == value(n), topic, record)
		check(len(record.Headers) == 1 && record.Headers[0].Key == "codec" && string(record.Headers[0].Value) == codec, topic)
	}
}

var levels = map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()}

func records(ctx context.Context) {
	for name, acks := range levels {
		sendAndCheck(ctx, prefix+"-none-"+name, "none", kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite())
	}
}

func idempotent(ctx context.Context) { sendAndCheck(ctx, prefix+"-none-idempotent", "none") }

func compressed(ctx context.Context) {
	for codec := range codecs {
		for name, acks := range levels {
			sendAndCheck(ctx, prefix+"-"+codec+"-"+name, codec, kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite())
		}
	}
}

// Bytes that are no JSON, an empty value, a tombstone, a record without a key.
func binary(ctx context.Context) {
	topic, sender := prefix+"-binary", client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer sender.Close()
	sent := [][2][]byte{{{0, 255}, {254, 0}}, {[]byte("empty"), {}}, {[]byte("tombstone"), nil}, {nil, []byte("no key")}}
	for n, pair := range sent {
		record := &kgo.Record{Topic: topic, Partition: 1, Key: pair[0], Value: pair[1]}
		check(must(sender.ProduceSync(ctx, record).First()).Offset == int64(n), "offset ", n)
	}
	for n, record := range readAll(ctx, topic, len(sent)) {
		check(bytes.Equal(record.Key, sent[n][0]) && (record.Key == nil) == (sent[n][0] == nil), "key ", n)
		check(bytes.Equal(record.Value, sent[n][1]) && (record.Value == nil) == (sent[n][1] == nil), "value ", n)
	}
}

func times(ctx context.Context) {
	topic := prefix + "-times"
	sendAll(ctx, topic, "none")
	reader := client(kgo.ConsumePartitions(from(topic, kgo.NewOffset().AfterMilli(at(count/2).UnixMilli()))))
	defer reader.Close()
	var numbers []int64
	for len(numbers) < count-count/2 {
		reader.PollFetches(ctx).EachRecord(func(record *kgo.Record) { numbers = append(numbers, record.Timestamp.UnixMilli()) })
	}
	sort.Slice(numbers, func(i, j int) bool { return numbers[i] < numbers[j] })
	for n, number := range numbers {
		check(number == at(count/2+n).UnixMilli(), numbers)
	}
	admin := kadm.NewClient(reader)
	sum := int64(0)
	must(admin.ListEndOffsets(ctx, topic)).Each(func(end kadm.ListedOffset) { sum += end.Offset })
	check(sum == count, "the ends: ", sum)
	must(admin.ListStartOffsets(ctx, topic)).Each(func(start kadm.ListedOffset) { check(start.Offset == 0, start) })
}

// Offsets of a group without members.
func commits(ctx context.Context) {
	topic := prefix + "-commits"
	sendAll(ctx, topic, "none")
	plain := client()
	defer plain.Close()
	admin, offsets := kadm.NewClient(plain), kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topic, Partition: 1, At: 7, LeaderEpoch: -1, Metadata: "seven"})
	check(admin.CommitAllOffsets(ctx, topic, offsets) == nil, "commit")
	found := must(admin.FetchOffsets(ctx, topic))
	one, _ := found.Lookup(topic, 1)
	check(one.At == 7 && one.Metadata == "seven", found)
	_, exists := found.Lookup(topic, 0)
	check(!exists, found)
}

// A member reads again from where it is told to, and commits by itself.
func seek(ctx context.Context) {
	topic := prefix + "-seek"
	sendAll(ctx, topic, "none")
	one := join(topic, topic, map[string]int{})
	defer one.CloseAllowingRebalance()
	found := map[int32][]int64{}
	read := func(wanted int) {
		for read := 0; read < wanted; {
			one.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
				found[record.Partition] = append(found[record.Partition], record.Offset)
				read++
			})
			one.AllowRebalance()
		}
	}
	read(count)
	end := len(found[1])
	found = map[int32][]int64{}
	one.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {1: {Epoch: -1, Offset: 3}}})
	read(end - 3)
	check(len(found) == 1 && found[1][0] == 3 && len(found[1]) == end-3, found)
	admin := kadm.NewClient(one.Client)
	committed := func() int64 {
		at, _ := must(admin.FetchOffsets(ctx, topic)).Lookup(topic, 1)
		return at.At
	}
	check(one.CommitRecords(ctx, &kgo.Record{Topic: topic, Partition: 1, Offset: 6, LeaderEpoch: -1}) == nil, "commit")
	check(committed() == 7, committed())
	check(one.CommitUncommittedOffsets(ctx) == nil, "commit")
	check(committed() == int64(end), committed())
}

type member struct {
	*kgo.Client
	assigned map[int32]bool
	revoked  int
	seen     map[string]int
}

// A member that has joined; polls only while `polled` runs.
func join(topic, group string, seen map[string]int, options ...kgo.Opt) *member {
	joined := &member{assigned: map[int32]bool{}, seen: seen}
	lost := func(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
		for _, p := range gone[topic] {
			delete(joined.assigned, p)
			joined.revoked++
		}
	}
	all := append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.HeartbeatInterval(200 * time.Millisecond), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(45 * time.Second), kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(100 * time.Millisecond), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, more map[string][]int32) {
			for _, p := range more[topic] {
				joined.assigned[p] = true
			}
		}), kgo.OnPartitionsRevoked(lost), kgo.OnPartitionsLost(lost)}, options...)
	joined.Client = client(all...)
	return joined
}

func polled(ctx context.Context, holds func() bool, members ...*member) {
	for !holds() {
		check(ctx.Err() == nil, "waited in vain")
		for _, each := range members {
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			fetches := each.PollFetches(short)
			cancel()
			fetches.EachRecord(func(record *kgo.Record) {
				name := fmt.Sprint(record.Partition, "@", record.Offset)
				each.seen[name]++
				check(each.seen[name] == 1, name, " came twice")
			})
			if fetches.NumRecords() > 0 {
				check(each.CommitUncommittedOffsets(ctx) == nil, "commit")
			}
			each.AllowRebalance()
		}
	}
}

func groups(ctx context.Context) {
	balancers := map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "roundrobin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(), "cooperative-sticky": kgo.CooperativeStickyBalancer(),
	}
	for name, balancer := range balancers {
		revoked := share(ctx, prefix+"-group-"+name, kgo.Balancers(balancer))
		if name == "cooperative-sticky" {
			check(revoked == 2, "a cooperative member keeps what stays with it: ", revoked)
		}
	}
}

// Members by the server-side protocol.
func consumers(ctx context.Context) {
	check(share(ctx, prefix+"-consumers", kgo.ServerSideBalancer()) == 2, "a member keeps what stays with it")
}

// Two members share a topic, one leaves, nothing comes twice; returns how many partitions the first one has lost to the second.
func share(ctx context.Context, topic string, options ...kgo.Opt) int {
	seen := map[string]int{}
	sendAll(ctx, topic, "none")
	first := join(topic, topic, seen, options...)
	polled(ctx, func() bool { return len(first.assigned) == partitions && len(seen) == count }, first)
	second := join(topic, topic, seen, options...)
	polled(ctx, func() bool { return len(first.assigned) == 2 && len(second.assigned) == 2 }, first, second)
	revoked := first.revoked
	sendAll(ctx, topic, "none")
	polled(ctx, func() bool { return len(seen) == 2*count }, first, second)
	first.CloseAllowingRebalance()
	polled(ctx, func() bool { return len(second.assigned) == partitions }, second)
	second.CloseAllowingRebalance()
	admin := kadm.NewClient(client())
	defer admin.Close()
	sum := int64(0)
	must(admin.FetchOffsets(ctx, topic)).Each(func(offset kadm.OffsetResponse) { sum += offset.At })
	check(sum == 2*count, "committed: ", sum)
	lags := must(admin.Lag(ctx, topic))
	check(lags[topic].Lag.Total() == 0, lags)
	return revoked
}

// A static member comes back within its session and gets what it had.
func static(ctx context.Context) {
	topic, seen := prefix+"-static", map[string]int{}
	sendAll(ctx, topic, "none")
	named := func(name string) *member {
		return join(topic, topic, seen, kgo.InstanceID(name), kgo.Balancers(kgo.RangeBalancer()))
	}
	first, second := named("one"), named("two")
	polled(ctx, func() bool { return len(first.assigned) == 2 && len(second.assigned) == 2 }, first, second)
	had, revoked := fmt.Sprint(sorted(first.assigned)), second.revoked
	first.CloseAllowingRebalance()
	again := named("one")
	polled(ctx, func() bool { return len(again.assigned) == 2 }, again, second)
	check(fmt.Sprint(sorted(again.assigned)) == had, again.assigned, had)
	check(second.revoked == revoked, "the other has lost partitions")
	again.CloseAllowingRebalance()
	second.CloseAllowingRebalance()
}

func sorted(set map[int32]bool) (all []int) {
	for each := range set {
		all = append(all, int(each))
	}
	sort.Ints(all)
	return all
}

// How to sign in.
func signedIn(secret string) (options []kgo.Opt) {
	user := "admin"
	switch os.Getenv("MECHANISM") {
	case "PLAIN":
		options = append(options, kgo.SASL(plain.Auth{User: user, Pass: secret}.AsMechanism()))
	case "SCRAM-SHA-256":
		options = append(options, kgo.SASL(scram.Auth{User: user, Pass: secret}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		options = append(options, kgo.SASL(scram.Auth{User: user, Pass: secret}.AsSha512Mechanism()))
	case "OAUTHBEARER":
		options = append(options, kgo.SASL(oauth.Auth{Token: secret}.AsMechanism()))
	}
	if file := os.Getenv("CA"); file != "" {
		roots := x509.NewCertPool()
		check(roots.AppendCertsFromPEM(must(os.ReadFile(file))), file)
		options = append(options, kgo.DialTLSConfig(&tls.Config{RootCAs: roots}))
	}
	return options
}

func signIn(ctx context.Context) {
	sender := client(append(signedIn(os.Getenv("TOKEN")), kgo.ConsumeTopics(prefix), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	defer sender.Close()
	sent := must(sender.ProduceSync(ctx, &kgo.Record{Topic: prefix, Value: []byte("x")}).First())
	found := sender.PollFetches(ctx)
	check(found.Err() == nil && found.NumRecords() == 1, found.Err())
	found.EachRecord(func(record *kgo.Record) { check(record.Offset == sent.Offset && string(record.Value) == "x", record) })
}

func refused(ctx context.Context) {
	stranger := client(signedIn(os.Getenv("WRONG"))...)
	defer stranger.Close()
	err := stranger.Ping(ctx)
	check(errors.Is(err, kerr.SaslAuthenticationFailed), err)
}

// Sends numbers until the file says that it ends; each is stored in the end.
func kills(context.Context) {
	sender, ctx := client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(500)), context.Background()
	defer sender.Close()
	sent, stored := 0, int64(0)
	for !isOver() {
		sender.Produce(ctx, &kgo.Record{Topic: prefix + "-kills", Value: []byte(fmt.Sprint(sent))}, func(record *kgo.Record, err error) {
			check(err == nil, err)
			check(record.Offset == stored, "offset ", record.Offset, ", expected ", stored)
			stored++
		})
		sent++
	}
	check(sender.Flush(ctx) == nil, "records are still waiting")
	check(stored == int64(sent), stored)
	fmt.Print(sent, " ")
}

// Whether the file says that it ends.
func isOver() bool {
	_, err := os.Stat(os.Getenv("QUIPU_TEST_STOP"))
	return err == nil
}

// Two members that read and commit until the file says that they end; prints what they read.
func readers(options ...kgo.Opt) {
	ctx := context.Background()
	both := []*member{join("read", prefix+"-readers", nil, options...), join("read", prefix+"-readers", nil, options...)}
	uncommitted := map[*member]bool{}
	for !isOver() {
		for _, each := range both {
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			fetches := each.PollFetches(short)
			cancel()
			fetches.EachRecord(func(record *kgo.Record) { fmt.Printf("%d@%d\n", record.Partition, record.Offset) })
			uncommitted[each] = uncommitted[each] || fetches.NumRecords() > 0
			// What fails is committed the next time, or read again.
			uncommitted[each] = uncommitted[each] && each.CommitUncommittedOffsets(ctx) != nil
			each.AllowRebalance()
		}
	}
	for _, each := range both {
		each.CloseAllowingRebalance()
	}
}

// Creates, lists, describes, grows and deletes topics; deletes records; reads and changes a configuration.
func topics(ctx context.Context) {
	topic, plain := prefix+"-topics", client()
	admin := kadm.NewClient(plain)
	defer admin.Close()
	retention := "3600000"
	must(admin.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": &retention}, topic))
	check(len(must(admin.ListTopics(ctx))[topic].Partitions) == 3, "partitions")
	config := func() string {
		described := must(must(admin.DescribeTopicConfigs(ctx, topic)).On(topic, nil))
		for _, config := range described.Configs {
			if config.Key == "retention.ms" {
				return *config.Value
			}
		}
		return ""
	}
	check(config() == retention, config())
	longer := "7200000"
	for _, each := range must(admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "retention.ms", Value: &longer}}, topic)) {
		check(each.Err == nil, each.Err)
	}
	check(config() == longer, config())
	check(must(admin.UpdatePartitions(ctx, 5, topic)).Error() == nil, "partitions")
	// A client keeps the partitions that it knows for a while.
	fresh := kadm.NewClient(client())
	defer fresh.Close()
	check(len(must(fresh.ListTopics(ctx))[topic].Partitions) == 5, "partitions")
	var last *kgo.Record
	for range 10 {
		last = must(plain.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("1"), Key: []byte("same")}).First())
	}
	p, before := last.Partition, kadm.Offsets{}
	before.AddOffset(topic, p, 4, -1)
	deleted, _ := must(admin.DeleteRecords(ctx, before)).Lookup(topic, p)
	check(deleted.Err == nil && deleted.LowWatermark == 4, deleted)
	start, _ := must(admin.ListStartOffsets(ctx, topic)).Lookup(topic, p)
	end, _ := must(admin.ListEndOffsets(ctx, topic)).Lookup(topic, p)
	check(start.Offset == 4 && end.Offset == 10, start, end)
	_, err := admin.CreateTopic(ctx, 3, 1, nil, topic)
	check(errors.Is(err, kerr.TopicAlreadyExists), err)
	must(admin.DeleteTopic(ctx, topic))
	again := kadm.NewClient(client())
	defer again.Close()
	check(!must(again.ListTopics(ctx)).Has(topic), "it is still there")
}

// Lists, describes and deletes groups; reads and changes their offsets.
func listGroups(ctx context.Context) {
	topic, seen := prefix+"-listed", map[string]int{}
	sendAll(ctx, topic, "none")
	one := join(topic, topic, seen)
	polled(ctx, func() bool { return len(one.assigned) == partitions && len(seen) == count }, one)
	admin := kadm.NewClient(client())
	defer admin.Close()
	_, exists := must(admin.ListGroups(ctx))[topic]
	check(exists, "the list")
	described := must(admin.DescribeGroups(ctx, topic))[topic]
	check(described.State == "Stable" && len(described.Members) == 1, described)
	one.CloseAllowingRebalance()
	changed := kadm.Offsets{}
	changed.AddOffset(topic, 0, 1, -1)
	check(admin.CommitAllOffsets(ctx, topic, changed) == nil, "commit")
	gone := kadm.TopicsSet{}
	gone.Add(topic, 1)
	check(must(admin.DeleteOffsets(ctx, topic, gone)).Error() == nil, "an offset")
	left := must(admin.FetchOffsets(ctx, topic))
	at, _ := left.Lookup(topic, 0)
	_, exists = left.Lookup(topic, 1)
	check(at.At == 1 && !exists, left)
	must(admin.DeleteGroups(ctx, topic))
	_, exists = must(admin.ListGroups(ctx))[topic]
	check(!exists, "it is still there")
}
