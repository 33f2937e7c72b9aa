-- take_lease: become the one who compacts a partition, unless somebody else is at it; what was left half done is removed.
--
-- KEYS   state janitor compacted compacted_times
-- ARGV   topic_id holder lease_ms:int replicas:int proved_in:int proved:int
-- GIVES  taken now rid start proved_end written trimmed cleaned cleaned_written horizons time_at
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID
-- USES   refuse clock leader proved_end

local field = redis.call('HMGET', state, 'id', 'start', 'next', 'written', 'trimmed', 'cleaned', 'cleaned_written',
  'horizons', 'time_at', 'epoch', 'confirmed')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local now = clock()
local lease = redis.call('HMGET', janitor, 'holder', 'until')
if lease[1] and lease[1] ~= holder and tonumber(lease[2]) > now then return {0, now} end

redis.call('UNLINK', compacted, compacted_times) -- first: a removal passes also where memory is used up
redis.call('HSET', janitor, 'holder', holder, 'until', string.format('%.0f', now + lease_ms))
local rid = replication_id(replication())
local proved_to = proved_end({next = field[3], epoch = field[10], confirmed = field[11]}, replicas, proved_in, proved)
return {1, now, rid, tonumber(field[2]), proved_to, tonumber(field[4]), tonumber(field[5]),
  tonumber(field[6] or 0), tonumber(field[7] or 0), field[8] or '', tonumber(field[9])}
