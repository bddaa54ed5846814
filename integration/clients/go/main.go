// franz-client is a producer, a consumer and an administrator on franz-go; see ../README.md for the arguments.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	deadline = time.Minute
	// Members ask this often whether the group rebalances.
	heartbeat = 300 * time.Millisecond
	// Records between two commits.
	batch = 20
)

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

// Idempotence is this client's default and needs acks=all; with fewer acks it has to be switched off.
func acksOptions(acks string) []kgo.Opt {
	switch acks {
	case "0":
		return []kgo.Opt{kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite()}
	case "1":
		return []kgo.Opt{kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()}
	case "all":
		return nil
	}
	log.Fatalf("acks %q: expected 0, 1 or all", acks)
	return nil
}

func produce(ctx context.Context, bootstrap, topic string, partition int32, codec, acks string, count int) {
	compression, ok := codecs[codec]
	if !ok {
		log.Fatalf("no codec %q", codec)
	}
	opts := append(acksOptions(acks), kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.DefaultProduceTopic(topic), kgo.AllowAutoTopicCreation(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(compression))
	client, err := kgo.NewClient(opts...)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = &kgo.Record{Value: fmt.Appendf(nil, "value-%d", i), Partition: partition}
	}
	for _, result := range client.ProduceSync(ctx, records...) {
		if result.Err != nil {
			log.Fatal(result.Err)
		}
		if acks == "0" {
			fmt.Println(-1)
		} else {
			fmt.Println(result.Record.Offset)
		}
	}
}

// load sends to one partition after the other until its standard input is closed.
func load(bootstrap, topic string, partitions, pauseMs int) {
	stop := closedInput()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	var failed atomic.Int64
	sent := 0
	for ; stop.Err() == nil; sent++ {
		record := &kgo.Record{Value: fmt.Appendf(nil, "value-%d", sent), Partition: int32(sent % partitions)}
		client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
			if err != nil {
				log.Print("error: ", err)
				failed.Add(1)
			} else {
				fmt.Println(r.Partition, r.Offset)
			}
		})
		time.Sleep(time.Duration(pauseMs) * time.Millisecond)
	}
	flushing, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := client.Flush(flushing); err != nil || failed.Load() > 0 {
		log.Fatalf("%d of %d records failed: %v", failed.Load(), sent, err)
	}
	fmt.Println("sent", sent)
}

// closedInput ends when the standard input is closed.
func closedInput() context.Context {
	stop, closed := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		closed()
	}()
	return stop
}

func consume(ctx context.Context, bootstrap, topic string, partition int32, count int) {
	start := map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ConsumePartitions(start))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for read := 0; read < count; {
		fetches := client.PollRecords(ctx, count-read)
		if errs := fetches.Errors(); len(errs) > 0 {
			log.Fatalf("%d of %d records read: %v", read, count, errs[0].Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			fmt.Println(r.Offset, string(r.Value))
			read++
		})
	}
}

// group reads as a member of a group. Polling and rebalances exclude each other, so that what was printed is committed
// before partitions are given up.
func group(bootstrap, topic, name string, count int) {
	stop := closedInput()
	commit := func(ctx context.Context, client *kgo.Client, _ map[string][]int32) {
		if err := client.CommitUncommittedOffsets(ctx); err != nil {
			log.Print("not committed: ", err)
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ConsumerGroup(name), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsRevoked(commit), kgo.HeartbeatInterval(heartbeat))
	if err != nil {
		log.Fatal(err)
	}
	defer client.CloseAllowingRebalance()
	for read := 0; (count == 0 || read < count) && stop.Err() == nil; {
		left := batch
		if count > 0 {
			left = min(batch, count-read)
		}
		fetches := client.PollRecords(stop, left)
		fetches.EachError(func(_ string, _ int32, err error) {
			if stop.Err() == nil {
				log.Print("error: ", err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			fmt.Println(r.Partition, r.Offset, string(r.Value))
			read++
		})
		commit(context.Background(), client, nil)
		client.AllowRebalance()
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	args := os.Args[1:]
	switch {
	case len(args) == 7 && args[0] == "produce":
		produce(ctx, args[1], args[2], int32(number(args[3])), args[4], args[5], number(args[6]))
	case len(args) == 5 && args[0] == "load":
		load(args[1], args[2], number(args[3]), number(args[4]))
	case len(args) == 5 && args[0] == "consume":
		consume(ctx, args[1], args[2], int32(number(args[3])), number(args[4]))
	case len(args) == 5 && args[0] == "group":
		group(args[1], args[2], args[3], number(args[4]))
	case len(args) == 3 && args[0] == "admin":
		administer(ctx, args[1], args[2])
	default:
		log.Fatal("usage: produce BOOTSTRAP TOPIC PARTITION CODEC ACKS COUNT | load BOOTSTRAP TOPIC PARTITIONS PAUSE_MS | consume BOOTSTRAP TOPIC PARTITION COUNT | " +
			"group BOOTSTRAP TOPIC GROUP COUNT | admin BOOTSTRAP TOPIC")
	}
}
