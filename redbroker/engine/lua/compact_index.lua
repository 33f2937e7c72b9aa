-- compact_index: add entries to the time index that a compaction will swap in with its second stream.
--
-- KEYS   state janitor compacted_times
-- ARGV   topic_id holder lease_ms:int rid
-- REST   score entry
-- GIVES  held
-- USES   clock leader lease

if not holds(state, janitor, topic_id, holder, lease_ms, rid) then return 0 end
redis.call('ZADD', compacted_times, unpack(ARGV, 5))
return 1
