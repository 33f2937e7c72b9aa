-- tail_copy: copy entries of a log behind the ID `through`, as they are, until so many or so many bytes are copied.
-- Gives the last ID, the bytes, and whether the end was reached.
local function tail_copy(log, compacted, through, entries_max, bytes_max)
  local bytes = 0
  for _ = 1, entries_max do
    local entry = redis.call('XRANGE', log, '(' .. through, '+', 'COUNT', 1)[1]
    if not entry then return through, bytes, true end
    if bytes >= bytes_max then return through, bytes, false end
    redis.call('XADD', compacted, entry[1], 'b', entry[2][2])
    through, bytes = entry[1], bytes + #entry[2][2]
  end
  return through, bytes, #redis.call('XRANGE', log, '(' .. through, '+', 'COUNT', 1) == 0
end
