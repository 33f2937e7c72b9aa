-- leader: the leader epoch of a partition, bumped when the log is on another master than last time.
--
-- master_replid changes on promotion, restart and slot move: exactly when acknowledged records may have been cut
-- off. The new epoch is seeded from the clock, so that a promoted node that dies before its bump was replicated
-- does not let the next one use the number again. Returns replication id, epoch, and whether it was bumped.
local EPOCH_ZERO = 1767225600 -- 2026-01-01T00:00:00Z in Unix seconds; keeps epochs far below 2^31

local function replication_id()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

local function leader(state, epochs, rid, epoch, next_offset)
  local now = replication_id()
  if now == rid then return epoch end
  local bumped = math.max(epoch + 1, tonumber(redis.call('TIME')[1]) - EPOCH_ZERO)
  local number = string.format('%.0f', bumped)
  redis.call('HSET', state, 'rid', now, 'epoch', number, 'since', next_offset)
  redis.call('ZADD', epochs, next_offset, number)
  return bumped
end
