-- members: the live workers, unless the caller knows this version of them.
local function members(workers, versions, known)
  local version = redis.call('HGET', versions, 'workers') or '0'
  if version == known then return version, {} end
  return version, redis.call('HVALS', workers)
end
