-- open_partition: make an empty log for a partition of this topic, or leave the one it has.
--
-- A log of an older topic of the same name is dropped first: the creation time tells which topic is newer, so a
-- worker with a stale view can never wipe a newer log.
--
-- A log that is missing long after its topic was made may have been lost with its master, after clients had read it
-- under epoch 1. Opened `again` it begins in an epoch from the clock, so that they notice.
--
-- KEYS   log state epochs producers times janitor compacted compacted_times
-- ARGV   topic_id created_ms:int again:int
-- GIVES  opened
-- FAILS  UNKNOWN_TOPIC_ID
-- USES   refuse leader

local field = redis.call('HMGET', state, 'id', 'created')
if field[1] == topic_id then return 0 end
if field[2] and tonumber(field[2]) > created_ms then
  return refuse('UNKNOWN_TOPIC_ID', 'a newer topic has this name')
end
local epoch = again == 1 and epoch_of_clock() or 1
redis.call('UNLINK', log, state, epochs, producers, times, janitor, compacted, compacted_times)
redis.call('HSET', state, 'id', topic_id, 'created', string.format('%.0f', created_ms),
  'rid', replication_id(replication()), 'epoch', epoch, 'since', 0, 'next', 0, 'start', 0,
  'written', 0, 'batches', 0, 'trimmed', 0, 'largest', 0, 'time', -1, 'time_at', -1)
redis.call('ZADD', epochs, 0, epoch)
return 1
