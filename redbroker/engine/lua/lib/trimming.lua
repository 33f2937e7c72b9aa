-- trimming: move a log start up and free a part of what lies below it. The log start is exact at once; entries go in
-- steps of at most `limit`, or of about `bytes` where batches are large (by the average of all that were written): Redis
-- serves nobody else meanwhile. Gives how many entries went, 0 when nothing is left to free, and how many bytes are
-- trimmed by now.
--
-- Nothing is written where nothing changes. What is, comes after a removal: a server that is full (OOM) refuses the
-- first write of a script, unless it is one.
local NODE_ENTRIES_MAX = 16384

local function trim_to(log, state, epochs, times, start, field, limit, bytes)
  local epoch = redis.call('ZREVRANGEBYSCORE', epochs, start, '-inf', 'LIMIT', 0, 1)[1]
  local first_kept = string.format('%s-%.0f', epoch, start)
  local typical = tonumber(field.written) / math.max(1, tonumber(field.batches))
  local freed, most = 0, math.max(1, math.floor(math.min(limit, bytes / math.max(1, typical))))
  while freed == 0 and most <= NODE_ENTRIES_MAX do -- only whole nodes go; how many entries one has, the server's settings say
    freed, most = redis.call('XTRIM', log, 'MINID', '~', first_kept, 'LIMIT', most), 4 * most
  end
  if freed == 0 then freed = redis.call('XTRIM', log, 'MINID', '=', first_kept) end -- less than one node is left
  local trimmed = tonumber(field.trimmed)
  if freed == 0 and start == tonumber(field.start) then return 0, trimmed end

  redis.call('HDEL', state, '')
  redis.call('HSET', state, 'start', string.format('%.0f', start))
  -- Index entries below the start only said where those bytes were; the newest of them tells how many are gone.
  for _ = 1, math.max(limit, freed) do
    local entry = redis.call('ZRANGE', times, 0, 0)[1]
    if not entry then break end
    local last, written = string.match(entry, '^(%d+):(%d+)$')
    if tonumber(last) >= start then break end
    redis.call('ZREM', times, entry)
    trimmed = math.max(trimmed, tonumber(written))
  end
  if start == tonumber(field.next) then trimmed = tonumber(field.written) end
  redis.call('HSET', state, 'trimmed', string.format('%.0f', trimmed))
  -- Epochs that ended at or before the start answer no question any more, except the one the start lies in.
  redis.call('ZREMRANGEBYSCORE', epochs, '-inf', '(' .. redis.call('ZSCORE', epochs, epoch))
  return freed, trimmed
end
