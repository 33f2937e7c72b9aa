-- look_dirty: what there is to compact in a partition: bytes by the counters, and the time of its first dirty batch.
--
-- `ready` counts the bytes written up to the youngest index entry older than `lag_ms`. `first_ms` is -1 where nothing
-- but the last batch is dirty, which stays as it is.
--
-- KEYS   log state epochs times
-- ARGV   topic_id lag_ms:int
-- GIVES  now written trimmed cleaned_written ready first_ms tombstones horizons
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID
-- USES   refuse clock

local field = redis.call('HMGET', state, 'id', 'start', 'next', 'written', 'trimmed', 'cleaned', 'cleaned_written',
  'tombstones', 'horizons')
if not field[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if field[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local now, ready = clock(), tonumber(field[4])
if lag_ms > 0 then
  local old = redis.call('ZREVRANGEBYSCORE', times, string.format('(%.0f', now - lag_ms), '-inf', 'LIMIT', 0, 1)[1]
  ready = old and tonumber(string.match(old, ':(%d+)$')) or 0
end

-- Of a batch from byte 21: attributes, lastOffsetDelta, firstTimestamp, maxTimestamp. Bit 3: all is of maxTimestamp.
local first_ms, at = -1, math.max(tonumber(field[2]), tonumber(field[6] or 0))
local epoch = redis.call('ZREVRANGEBYSCORE', epochs, at, '-inf', 'LIMIT', 0, 1)[1]
local entry = redis.call('XRANGE', log, string.format('%s-%.0f', epoch, at), '+', 'COUNT', 1)[1]
if entry and tonumber(string.match(entry[1], '%-(%d+)$')) + 1 < tonumber(field[3]) then
  local attributes, _, oldest, youngest = struct.unpack('>Hi4i8i8', entry[2][2], 22)
  first_ms = math.max(0, math.floor(attributes / 8) % 2 == 1 and youngest or oldest)
end
return {now, tonumber(field[4]), tonumber(field[5]), tonumber(field[7] or 0), ready, first_ms, tonumber(field[8] or 0),
  field[9] or ''}
