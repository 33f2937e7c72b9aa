-- leader: the leader epoch of a partition, bumped when the log is on another master than last time.
--
-- master_replid changes on promotion, restart and slot move: exactly when acknowledged records may have been cut
-- off. The new epoch is seeded from the clock, so that a promoted node that dies before its bump was replicated
-- does not let the next one use the number again. Readers must pass also when the server is full: the removal stands
-- first because Redis (OOM) refuses only the first write of a script, and never a removal.
local EPOCH_ZERO = 1767225600 -- 2026-01-01T00:00:00Z in Unix seconds; keeps epochs far below 2^31

local function replication() return redis.call('INFO', 'replication') end

local function replication_id(info) -- plain find: a pattern would be tried at each of some 400 bytes
  local _, colon = string.find(info, 'master_replid:', 1, true)
  return string.sub(info, colon + 1, colon + 40)
end

local function epoch_of_clock() return math.max(1, tonumber(redis.call('TIME')[1]) - EPOCH_ZERO) end

local function leader(state, epochs, rid_now, rid, epoch, next_offset)
  if rid_now == rid then return epoch end
  local bumped = math.max(epoch + 1, epoch_of_clock())
  redis.call('ZREMRANGEBYSCORE', epochs, next_offset, next_offset) -- an epoch without a record answers no question
  redis.call('HSET', state, 'rid', rid_now, 'epoch', bumped, 'since', next_offset)
  redis.call('ZADD', epochs, next_offset, bumped)
  return bumped
end
