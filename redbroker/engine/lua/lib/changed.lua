-- changed: note and announce that the topics or the workers are others now; gives the new version. Needs `clock`.
--
-- A version is the server's time in ms, but always grows, whatever the clocks of the masters do: it orders topics of
-- one name, and a reader that knows the version need not read again.
local function changed(versions, changes, noun)
  local next_version = tonumber(redis.call('HGET', versions, noun) or 0) + 1
  local version = string.format('%.0f', math.max(clock(), next_version))
  redis.call('HSET', versions, noun, version)
  redis.call('SPUBLISH', changes, noun)
  return version
end
