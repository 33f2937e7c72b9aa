-- leader: the leader epoch of a partition, bumped when the log is on another master than last time.
--
-- master_replid changes on promotion, restart and slot move: exactly when acknowledged records may have been cut
-- off. The new epoch is seeded from the clock, so that a promoted node that dies before its bump was replicated
-- does not let the next one use the number again. Readers must pass also when the server is full: the removal stands
-- first because Redis (OOM) refuses only the first write of a script, and never a removal.
--
-- Barrier: seconds tell two bumps apart only when they lie a second apart. So where there are replicas, nothing is
-- served under a new epoch before they have it (settle.lua takes `bumped` away then) or BARRIER_MS have passed:
-- `leader` gives a refusal as its second value until then.
local EPOCH_ZERO = 1767225600 -- 2026-01-01T00:00:00Z in Unix seconds; keeps epochs far below 2^31
local BARRIER_MS = 1000

local function replication() return redis.call('INFO', 'replication') end

local function replication_id(info) -- plain find: a pattern would be tried at each of some 400 bytes
  local _, colon = string.find(info, 'master_replid:', 1, true)
  return string.sub(info, colon + 1, colon + 40)
end

local function epoch_of_clock() return math.max(1, tonumber(redis.call('TIME')[1]) - EPOCH_ZERO) end

local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function unsettled(state, replicas) return redis.error_reply('UNSETTLED ' .. replicas .. ' ' .. state) end

local function leader(state, epochs, rid_now, rid, epoch, next_offset, bumped, replicas)
  if rid_now == rid then
    if bumped and replicas > 0 then
      local age = milliseconds() - tonumber(bumped)
      if age >= 0 and age < BARRIER_MS then return epoch, unsettled(state, replicas) end
    end
    return epoch
  end
  local fresh = math.max(epoch + 1, epoch_of_clock())
  redis.call('ZREMRANGEBYSCORE', epochs, next_offset, next_offset) -- an epoch without a record answers no question
  redis.call('HSET', state, 'rid', rid_now, 'epoch', fresh, 'since', next_offset)
  redis.call('ZADD', epochs, next_offset, fresh)
  if replicas == 0 then
    if bumped then redis.call('HDEL', state, 'bumped') end
    return fresh
  end
  redis.call('HSET', state, 'bumped', string.format('%.0f', milliseconds()))
  return fresh, unsettled(state, replicas)
end
