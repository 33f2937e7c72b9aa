-- find_time: the first batch whose largest timestamp is at or after `target`.
--
-- The sparse index holds the running maximum, which only grows with the offset, so the answer lies behind the last
-- index entry below the target; from there batch headers are read, at most `limit` of them. Gives the batch, or the
-- offset to go on from, or nothing when no record is that young.
--
-- KEYS   log state epochs times
-- ARGV   topic_id target:int first:int limit:int
-- GIVES  found go_on_from leader_epoch id batch
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID
-- USES   refuse

local field = redis.call('HMGET', state, 'id', 'next', 'start', 'time', 'epoch')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local epoch = tonumber(field[5])
if tonumber(field[4]) < target then return {0, -1, epoch} end

local start = math.max(tonumber(field[3]), first)
local below = redis.call('ZREVRANGEBYSCORE', times, string.format('(%.0f', target), '-inf', 'LIMIT', 0, 1)[1]
if below then start = math.max(start, tonumber(string.match(below, '^(%d+)')) + 1) end
if start >= tonumber(field[2]) then return {0, -1, epoch} end

-- Byte 35 of a batch: maxTimestamp.
local since = redis.call('ZREVRANGEBYSCORE', epochs, start, '-inf', 'LIMIT', 0, 1)[1]
local id = string.format('%s-%.0f', since, start)
for _ = 1, limit do
  local entry = redis.call('XRANGE', log, id, '+', 'COUNT', 1)[1]
  if not entry then return {0, -1, epoch} end
  if struct.unpack('>i8', entry[2][2], 36) >= target then return {1, -1, epoch, entry[1], entry[2][2]} end
  id = '(' .. entry[1]
  start = tonumber(string.match(entry[1], '%-(%d+)$')) + 1
end
return {0, start, epoch}
