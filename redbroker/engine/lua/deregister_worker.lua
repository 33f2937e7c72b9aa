-- deregister_worker: a worker leaves; its address keeps its node id for the next time.
--
-- KEYS   workers beats versions changes
-- ARGV   node_id instance
-- GIVES  left
-- USES   clock changed

local mine = redis.call('HGET', workers, node_id)
if not mine or cjson.decode(mine).instance ~= instance then return 0 end
redis.call('HDEL', workers, node_id)
redis.call('ZREM', beats, node_id)
changed(versions, changes, 'workers')
return 1
