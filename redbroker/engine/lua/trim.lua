-- trim: move a partition's log start up, and free at most `limit` entries below it.
--
-- The log start is exact at once; entries below it go in bounded steps, so that a large trim never stalls Redis.
-- The batch that holds the new start stays whole, as in Kafka. `freed` of 0 means nothing is left to free.
--
-- KEYS   log state epochs times
-- ARGV   topic_id before:int limit:int
-- GIVES  log_start freed
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID OFFSET_OUT_OF_RANGE
-- USES   refuse

local field = redis.call('HMGET', state, 'id', 'next', 'start', 'written', 'trimmed')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local next_offset, start = tonumber(field[2]), tonumber(field[3])
if before == -1 then before = next_offset end
if before < 0 or before > next_offset then
  return refuse('OFFSET_OUT_OF_RANGE', 'the log ends at offset ' .. field[2])
end

start = math.max(start, before)
local epoch = redis.call('ZREVRANGEBYSCORE', epochs, start, '-inf', 'LIMIT', 0, 1)[1]
local first_kept = string.format('%s-%.0f', epoch, start)
local freed = redis.call('XTRIM', log, 'MINID', '~', first_kept, 'LIMIT', limit)
if freed == 0 then freed = redis.call('XTRIM', log, 'MINID', '=', first_kept) end -- less than one node is left
-- Only after a removal: a server that is full (OOM) refuses the first write of a script, unless it is one.
redis.call('HSET', state, 'start', string.format('%.0f', start))

-- Index entries below the start only said where those bytes were; the newest of them tells how many are gone.
local trimmed = tonumber(field[5])
for _ = 1, limit do
  local entry = redis.call('ZRANGE', times, 0, 0)[1]
  if not entry then break end
  local last, written = string.match(entry, '^(%d+):(%d+)$')
  if tonumber(last) >= start then break end
  redis.call('ZREM', times, entry)
  trimmed = math.max(trimmed, tonumber(written))
end
if start == next_offset then trimmed = tonumber(field[4]) end
redis.call('HSET', state, 'trimmed', string.format('%.0f', trimmed))

-- Epochs that ended at or before the start answer no question any more, except the one the start lies in.
redis.call('ZREMRANGEBYSCORE', epochs, '-inf', '(' .. redis.call('ZSCORE', epochs, epoch))
return {start, freed}
