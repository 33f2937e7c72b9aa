-- trim: move a partition's log start up, and free at most `limit` entries or about `bytes` below it.
--
-- The batch that holds the new start stays whole, as in Kafka. `freed` of 0 means nothing is left to free.
--
-- KEYS   log state epochs times
-- ARGV   topic_id before:int limit:int bytes:int
-- GIVES  log_start freed
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID OFFSET_OUT_OF_RANGE
-- USES   refuse trimming

local values = redis.call('HMGET', state, 'id', 'next', 'start', 'written', 'trimmed', 'batches')
if not values[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if values[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local next_offset = tonumber(values[2])
if before < 0 or before > next_offset then
  return refuse('OFFSET_OUT_OF_RANGE', 'the log ends at offset ' .. values[2])
end
local field = {next = values[2], start = values[3], written = values[4], trimmed = values[5], batches = values[6]}
local start = math.max(tonumber(values[3]), before)
return {start, (trim_to(log, state, epochs, times, start, field, limit, bytes))}
