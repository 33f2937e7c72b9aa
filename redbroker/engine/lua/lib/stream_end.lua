-- stream_end: the last ID of a stream, or an empty string.
local function stream_end(stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return last and last[1] or ''
end
