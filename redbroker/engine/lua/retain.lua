-- retain: move a log start past what retention.ms and retention.bytes (-1: no limit) let go, and free a part of it.
--
-- Deciding and moving are one step: what is cut was old when it was cut, whatever another worker, a pause or a failover
-- did in between. That is why trimming needs no lease. Exact to the batch by time; by bytes exact to an index entry (64
-- batches or one MiB), and never less is kept than asked for.
--
-- As in Kafka the oldest batch decides: what lies behind one that is too young stays. A batch without a timestamp is as
-- old as the youngest before it. At most `scan` batches are looked at, and `limit` entries or about `bytes` freed; `more`
-- says that another call goes on.
--
-- Where there are replicas nothing goes that they are not known to have; `held` says that something stayed for that.
--
-- What a compaction left half done, when nobody has its lease any more, is removed on the way.
--
-- KEYS   log state epochs times janitor compacted compacted_times
-- ARGV   topic_id retention_ms:int retention_bytes:int scan:int limit:int bytes:int replicas:int proved_in:int proved:int
-- GIVES  log_start freed freed_bytes more held
-- FAILS  UNKNOWN_TOPIC_OR_PARTITION UNKNOWN_TOPIC_ID
-- USES   refuse clock trimming proved_end

local SCAN_BYTES = 1048576

local values = redis.call('HMGET', state, 'id', 'next', 'start', 'written', 'trimmed', 'time', 'batches',
  'epoch', 'confirmed')
if not values[1] then return refuse('UNKNOWN_TOPIC_OR_PARTITION', 'partition is not open') end
if values[1] ~= topic_id then return refuse('UNKNOWN_TOPIC_ID', 'topic was deleted and made again') end
local field = {next = values[2], start = values[3], written = values[4], trimmed = values[5], batches = values[7],
  epoch = values[8], confirmed = values[9]}
local next_offset, start = tonumber(field.next), tonumber(field.start)
local written, trimmed = tonumber(field.written), tonumber(field.trimmed)
local cut, unseen = start, false

local function place(entry) -- of an index entry: first offset behind it, bytes written up to there
  local last, bytes = string.match(entry, '^(%d+):(%d+)$')
  return tonumber(last) + 1, tonumber(bytes)
end

if retention_bytes >= 0 and written - trimmed > retention_bytes then
  local low, high = 0, redis.call('ZCARD', times) -- entries below rank `low` may go
  while low < high do
    local middle = math.floor((low + high) / 2)
    local behind, bytes = place(redis.call('ZRANGE', times, middle, middle)[1])
    if bytes <= written - retention_bytes then
      low, cut = middle + 1, math.max(cut, behind)
    else
      high = middle
    end
  end
end

if retention_ms >= 0 and start < next_offset then
  local horizon, youngest = clock() - retention_ms, tonumber(values[6])
  if youngest >= 0 and youngest < horizon then
    cut = next_offset
  else
    local indexed = redis.call('ZREVRANGEBYSCORE', times, string.format('(%.0f', horizon), 0, 'WITHSCORES', 'LIMIT', 0, 1)
    local at, running = cut, -1
    if indexed[1] then
      running = tonumber(indexed[2])
      at = math.max(at, (place(indexed[1])))
      cut = at
    end
    -- From byte 35 of a batch: maxTimestamp.
    local epoch = redis.call('ZREVRANGEBYSCORE', epochs, at, '-inf', 'LIMIT', 0, 1)[1]
    local id, bytes = string.format('%s-%.0f', epoch, at), 0
    unseen = true
    for _ = 1, scan do
      local entry = redis.call('XRANGE', log, id, '+', 'COUNT', 1)[1]
      if not entry then unseen = false break end
      local batch = entry[2][2]
      running = math.max(running, (struct.unpack('>i8', batch, 36)))
      if running >= horizon then unseen = false break end
      id, bytes = '(' .. entry[1], bytes + #batch
      if running >= 0 then cut = tonumber(string.match(entry[1], '%-(%d+)$')) + 1 end
      if bytes > SCAN_BYTES then break end
    end
  end
end

if redis.call('EXISTS', compacted) == 1 and tonumber(redis.call('HGET', janitor, 'until') or 0) < clock() then
  redis.call('UNLINK', compacted, compacted_times, janitor)
end
local most = math.max(start, proved_end(field, replicas, proved_in, proved))
local held = cut > most
if held then cut, unseen = most, false end
local freed, gone = trim_to(log, state, epochs, times, cut, field, limit, bytes)
return {cut, freed, gone - trimmed, (freed > 0 or (unseen and cut > start)) and 1 or 0, held and 1 or 0}
