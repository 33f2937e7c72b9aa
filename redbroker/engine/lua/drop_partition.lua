-- drop_partition: delete a partition's log if it still belongs to this topic.
--
-- A marker with the topic's creation time stays for a while: a worker that has not yet heard of the deletion may
-- not open the log again.
--
-- KEYS   log state epochs producers times tail janitor compacted compacted_times
-- ARGV   topic_id created_ms:int marker_ms:int
-- GIVES  dropped

local field = redis.call('HMGET', state, 'id', 'created')
if field[1] and field[1] ~= topic_id then return 0 end
if field[2] and tonumber(field[2]) > created_ms then return 0 end
redis.call('UNLINK', log, state, epochs, producers, times, janitor, compacted, compacted_times)
redis.call('HSET', state, 'created', string.format('%.0f', created_ms + 1))
redis.call('PEXPIRE', state, marker_ms)
redis.call('SPUBLISH', tail, '0 0')
return 1
