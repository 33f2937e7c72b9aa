"""Pure state machines: the rules of Kafka's groups, without I/O, clock or chance.

Every machine is `step(group, event, now_ms, settings) -> Step`; times and random ids come in from outside. What all
group machines share is `group`; `classic_group` is JoinGroup and SyncGroup, `consumer_group` is KIP-848.
"""
