-- look: where a partition's log starts and ends, and under which leader epoch.
--
-- Goes ahead of every XRANGE in the same pipeline, so a reader learns of a new leader epoch before it sees a record.
--
-- KEYS   state epochs
-- ARGV   topic_id replicas:int
-- GIVES  log_start next leader_epoch since written batches trimmed largest time time_at confirmed end
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID
-- USES   refuse leader

local field = redis.call('HMGET', state, 'id', 'rid', 'epoch', 'next', 'start', 'since', 'written', 'batches', 'trimmed',
  'largest', 'time', 'time_at', 'bumped', 'confirmed')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local known = tonumber(field[3])
local epoch, wait = leader(state, epochs, replication_id(replication()), field[2], known, field[4], field[13], replicas)
if wait then return wait end
local since = epoch == known and field[6] or field[4]
return {tonumber(field[5]), tonumber(field[4]), epoch, tonumber(since), tonumber(field[7]), tonumber(field[8]),
  tonumber(field[9]), tonumber(field[10]), tonumber(field[11]), tonumber(field[12]), field[14] or '',
  tonumber(field[4])}
