-- compact_copy: copy a bounded piece of what a compaction leaves as it is, the log behind `through`, to its second stream.
--
-- `after` is the ID that stream ends with. Sent again, it goes on from where it was. `written` is told when the end of
-- the log was reached, else -1: together with the bytes copied it tells where the untouched part begins.
--
-- KEYS   log state janitor compacted
-- ARGV   topic_id holder lease_ms:int rid after through entries_max:int bytes_max:int
-- GIVES  held last_id bytes written
-- USES   clock leader lease stream_end tail_copy

if not holds(state, janitor, topic_id, holder, lease_ms, rid) or stream_end(compacted) ~= after then return {0} end
local last, bytes, ended = tail_copy(log, compacted, through, entries_max, bytes_max)
return {1, last, bytes, ended and tonumber(redis.call('HGET', state, 'written')) or -1}
