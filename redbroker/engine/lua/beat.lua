-- beat: a worker says it is alive, and removes those that have been silent for too long.
--
-- Only a worker that is silent while others beat is dead. When nobody has beaten for the whole time-out, Redis was
-- away or its clock jumped: then everybody gets another time-out to come back. A beat from the future is one of a
-- clock that was set back, and counts as now.
--
-- KEYS   workers beats versions changes
-- ARGV   node_id instance timeout_ms:int known
-- GIVES  status version workers
-- USES   clock changed members even_when_full

even_when_full(workers)
local mine = redis.call('HGET', workers, node_id)
local status = 'alive'
if not mine then status = 'expired' elseif cjson.decode(mine).instance ~= instance then status = 'replaced' end

local now = clock()
local newest = redis.call('ZREVRANGE', beats, 0, 0, 'WITHSCORES')[2]
local grace = newest and now - tonumber(newest) > timeout_ms
if grace then
  for _, id in ipairs(redis.call('ZRANGE', beats, 0, -1)) do redis.call('ZADD', beats, now, id) end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', beats, '(' .. string.format('%.0f', now), '+inf')) do
  redis.call('ZADD', beats, now, id)
end
if status == 'alive' then redis.call('ZADD', beats, now, node_id) end

local dead = redis.call('ZRANGEBYSCORE', beats, '-inf', '(' .. string.format('%.0f', now - timeout_ms))
for _, id in ipairs(dead) do
  redis.call('HDEL', workers, id)
  redis.call('ZREM', beats, id)
end
if #dead > 0 then changed(versions, changes, 'workers') end
local version, list = members(workers, versions, known)
return {status, version, list}
