-- delete_topic: forget a topic; it waits in `deleted` until its logs are gone, so that a crash leaves no logs behind.
--
-- Sent again it still writes, or the WAIT behind it would count replicas that have the topic yet.
--
-- KEYS   topics deleted versions changes
-- ARGV   name id
-- GIVES  version, or 0 when this topic was gone already
-- USES   clock changed

local known = redis.call('HGET', topics, name)
local topic = known and cjson.decode(known)
if not topic or topic.id ~= id then
  local waits = redis.call('HGET', deleted, id)
  if waits then redis.call('HSET', deleted, id, waits) end
  return '0'
end
redis.call('HDEL', topics, name)
redis.call('HSET', deleted, id, string.format('{"name":"%s","partitions":%.0f,"created_ms":%.0f}',
  name, topic.partitions, topic.created_ms))
return changed(versions, changes, 'topics')
