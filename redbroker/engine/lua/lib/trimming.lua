-- trimming: move a log start up and free at most `limit` entries below it. The log start is exact at once; entries go in
-- bounded steps, so that a large trim never stalls Redis. Gives how many entries went, 0 when nothing is left to free,
-- and how many bytes are trimmed by now.
--
-- Nothing is written where nothing changes. What is, comes after a removal: a server that is full (OOM) refuses the
-- first write of a script, unless it is one.
local function trim_to(log, state, epochs, times, start, field, limit)
  local epoch = redis.call('ZREVRANGEBYSCORE', epochs, start, '-inf', 'LIMIT', 0, 1)[1]
  local first_kept = string.format('%s-%.0f', epoch, start)
  local freed = redis.call('XTRIM', log, 'MINID', '~', first_kept, 'LIMIT', limit)
  if freed == 0 then freed = redis.call('XTRIM', log, 'MINID', '=', first_kept) end -- less than one node is left
  local trimmed = tonumber(field.trimmed)
  if freed == 0 and start == tonumber(field.start) then return 0, trimmed end

  redis.call('HDEL', state, '')
  redis.call('HSET', state, 'start', string.format('%.0f', start))
  -- Index entries below the start only said where those bytes were; the newest of them tells how many are gone.
  for _ = 1, limit do
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
