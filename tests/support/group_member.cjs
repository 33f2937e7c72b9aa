// A kafkajs member of a consumer group; what it tells and hears is described in group_members.py.
const { Kafka, logLevel } = require("kafkajs");

const config = JSON.parse(process.argv[2]);
const tell = (what) => process.stdout.write(JSON.stringify({ ...what, at: Date.now() / 1000 }) + "\n");

async function main() {
  const kafka = new Kafka({
    clientId: "member",
    brokers: config.bootstrap.split(","),
    logLevel: logLevel.ERROR,
    retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 30 },
  });
  const consumer = kafka.consumer({
    groupId: config.group,
    sessionTimeout: config.session_timeout_ms,
    heartbeatInterval: config.heartbeat_ms,
    rebalanceTimeout: config.session_timeout_ms,
    maxWaitTimeInMs: 100,
  });
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    tell({ assigned: (payload.memberAssignment[config.topic] || []).slice().sort((a, b) => a - b) });
  });
  process.stdin.once("data", async () => {
    await consumer.disconnect();
    tell({ left: true });
    process.exit(0);
  });
  await consumer.connect();
  await consumer.subscribe({ topic: config.topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, heartbeat, isRunning, isStale, resolveOffset }) => {
      if (!isRunning() || isStale() || batch.messages.length === 0) return;
      for (const one of batch.messages) {
        tell({ record: [batch.partition, Number(one.offset), Number(one.value.toString())] });
      }
      const next = String(Number(batch.lastOffset()) + 1);
      try {
        await consumer.commitOffsets([{ topic: batch.topic, partition: batch.partition, offset: next }]);
        resolveOffset(batch.lastOffset());
        tell({ committed: true });
      } catch (error) {
        tell({ refused: error.type || error.name });
        throw error;
      }
      await heartbeat();
    },
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
