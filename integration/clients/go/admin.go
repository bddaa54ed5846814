package main

import (
	"context"
	"fmt"
	"log"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// administer takes a topic through its life and prints each step.
func administer(ctx context.Context, bootstrap, topic string) {
	admin := kadm.NewClient(must(kgo.NewClient(kgo.SeedBrokers(bootstrap))))
	defer admin.Close()
	retention := "3600000"
	created := must(admin.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": &retention}, topic))
	fmt.Println("created", created.Topic)
	described := must(admin.ListTopics(ctx, topic))[topic]
	fmt.Println("partitions", len(described.Partitions), "replicas", described.Partitions.NumReplicas())
	show := func() {
		for _, resource := range must(admin.DescribeTopicConfigs(ctx, topic)) {
			for _, config := range resource.Configs {
				if config.Key == "retention.ms" {
					fmt.Println("retention.ms", config.MaybeValue())
				}
			}
		}
	}
	show()
	retention = "7200000"
	alter := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &retention}}
	for _, altered := range must(admin.AlterTopicConfigs(ctx, alter, topic)) {
		must(altered, altered.Err)
	}
	show()
	must(admin.CreatePartitions(ctx, 2, topic))
	fmt.Println("partitions", len(must(admin.ListTopics(ctx, topic))[topic].Partitions))
	for _, deleted := range must(admin.DeleteTopics(ctx, topic)) {
		must(deleted, deleted.Err)
	}
	_, exists := must(admin.ListTopics(ctx))[topic]
	fmt.Println("exists", exists)
}
