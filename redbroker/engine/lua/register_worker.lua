-- register_worker: take the node id of an advertised address, and be alive under it.
--
-- An address keeps its id for ever, so that a restarted worker has the same one; only when `nodes_max` addresses are
-- known are those without a live worker forgotten. The newest instance of an address wins.
--
-- KEYS   workers nodes beats versions changes
-- ARGV   host port:int rack instance nodes_max:int
-- GIVES  node_id replaced_instance
-- USES   clock changed even_when_full

even_when_full(workers)
local address = host .. ':' .. port
local id = redis.call('HGET', nodes, address)
if not id then
  if redis.call('HLEN', nodes) >= nodes_max then
    local pairs_of = redis.call('HGETALL', nodes)
    for i = 1, #pairs_of, 2 do
      if redis.call('HEXISTS', workers, pairs_of[i + 1]) == 0 then redis.call('HDEL', nodes, pairs_of[i]) end
    end
  end
  local used, free = {}, 1
  for _, taken in ipairs(redis.call('HVALS', nodes)) do used[tonumber(taken)] = true end
  while used[free] do free = free + 1 end
  id = string.format('%.0f', free)
  redis.call('HSET', nodes, address, id)
end

local replaced = ''
local before = redis.call('HGET', workers, id)
if before then
  local known = cjson.decode(before)
  if known.instance ~= instance then replaced = known.instance end
end
local now = clock()
local worker = {id = tonumber(id), host = host, port = port, instance = instance, started_ms = now}
if rack ~= '' then worker.rack = rack end
redis.call('HSET', workers, id, cjson.encode(worker))
redis.call('ZADD', beats, now, id)
changed(versions, changes, 'workers')
return {id, replaced}
