-- producers: what a partition remembers of an idempotent producer (KIP-98): its epoch and its last five batches.
--
--   "<epoch> <time, s> <first>:<last>:<offset> <first>:<last>:<offset> …"    newest first
--
-- Sequences are 31 bits and wrap to 0. A duplicate is a batch whose first and last sequence both stand in the window;
-- `offset` is its first. A producer nobody remembers may start anywhere, as in Kafka: its records may have expired. But
-- its batch may also have overtaken its first, so the caller has to say that it has not (`alone`).
local SEQUENCES = 2147483648

-- Is this batch the next one, one already stored, or neither? Gives a verdict (an error name for neither) and, for
-- `next`, the window so far, for `duplicate` the first offset it got.
local function judge(known, epoch, first, last, alone)
  if not known then
    if first ~= 0 and alone == 0 then return 'UNKNOWN_PRODUCER_ID' end
    return 'next', ''
  end
  local stored, window, newest = string.match(known, '^(%-?%d+) %d+( %d+:(%d+):.*)$')
  stored = tonumber(stored)
  if epoch == stored then
    if (tonumber(newest) + 1) % SEQUENCES == first then return 'next', window end
    for from, to, offset in string.gmatch(window, '(%d+):(%d+):(%d+)') do
      if tonumber(from) == first and tonumber(to) == last then return 'duplicate', tonumber(offset) end
    end
    return 'OUT_OF_ORDER_SEQUENCE_NUMBER'
  elseif epoch < stored then
    return 'INVALID_PRODUCER_EPOCH'
  elseif first ~= 0 then
    return 'OUT_OF_ORDER_SEQUENCE_NUMBER'
  end
  return 'next', ''
end

local function remember(epoch, now, window, first, last, offset)
  local four = string.match(window, '^( %S+ %S+ %S+ %S+) ') or window -- the fifth makes room for the new one
  return string.format('%d %s %d:%d:%d%s', epoch, now, first, last, offset, four)
end

-- Forget idle producers a few at a time: each new one looks at eight others, so the hash never needs a full sweep.
local function make_room(producers, now, expiration_s, most)
  local some = redis.call('HRANDFIELD', producers, 8, 'WITHVALUES')
  local oldest, oldest_time
  for i = 1, #some, 2 do
    local time = tonumber(string.match(some[i + 1], '^%-?%d+ (%d+)'))
    if time + expiration_s < now then
      redis.call('HDEL', producers, some[i])
    elseif not oldest_time or time < oldest_time then
      oldest, oldest_time = some[i], time
    end
  end
  if oldest and redis.call('HLEN', producers) >= most then redis.call('HDEL', producers, oldest) end
end
