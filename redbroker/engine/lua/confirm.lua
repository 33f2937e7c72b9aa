-- confirm: tell the log end, with a write that the WAIT behind it can speak of: once replicas have acknowledged that,
-- they hold all records up to this end, and it is the high watermark (watermark.py).
--
-- The write keeps the high watermark the caller knows, so that others need not prove it, and it is still known when
-- no replica is left to prove it with.
--
-- KEYS   state epochs
-- ARGV   topic_id replicas:int proved_in:int proved
-- GIVES  log_start leader_epoch next written rid
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID NOT_ENOUGH_REPLICAS
-- USES   refuse even_when_full leader replicas

local field = redis.call('HMGET', state, 'id', 'rid', 'epoch', 'next', 'start', 'written', 'bumped', 'confirmed')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local info = replication()
if good_replicas(info) < replicas then return refuse('NOT_ENOUGH_REPLICAS', 'too few replicas are in step') end
local rid = replication_id(info)
local epoch, wait = leader(state, epochs, rid, field[2], tonumber(field[3]), field[4], field[7], replicas)
if wait then return wait end
if epoch ~= proved_in then proved = field[8] or '0 0' end
even_when_full(state)
redis.call('HSET', state, 'confirmed', proved)
return {tonumber(field[5]), epoch, tonumber(field[4]), tonumber(field[6]), rid}
