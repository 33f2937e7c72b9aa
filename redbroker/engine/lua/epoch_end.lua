-- epoch_end: where the newest epoch at or below the asked one ends (OffsetForLeaderEpoch, KIP-101 and KIP-320).
--
-- An epoch older than all that are known (its records were trimmed away) ended where the first known one begins, as in
-- Kafka; told "unknown", a consumer that had read everything would take its log for cut off, and reset its offset.
--
-- KEYS   state epochs
-- ARGV   topic_id asked:int replicas:int
-- GIVES  epoch end_offset leader_epoch
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID
-- USES   refuse leader

local field = redis.call('HMGET', state, 'id', 'rid', 'epoch', 'next', 'bumped')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local current, wait = leader(state, epochs, replication_id(replication()), field[2], tonumber(field[3]), field[4],
  field[5], replicas)
if wait then return wait end
if asked == current then return {current, tonumber(field[4]), current} end
if asked > current or asked < 0 then return {-1, -1, current} end

-- Epochs and their first offsets grow together; the table is short (one entry per failover).
local below, following = -1, -1
local all = redis.call('ZRANGE', epochs, 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
  if tonumber(all[i]) <= asked then
    below = math.max(below, tonumber(all[i]))
  elseif following == -1 or tonumber(all[i + 1]) < following then
    following = tonumber(all[i + 1])
  end
end
if below == -1 then below = asked end
return {below, following, current}
