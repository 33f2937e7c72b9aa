-- delete_topic: forget a topic; it waits in `deleted` until its logs are gone, so that a crash leaves no logs behind.
--
-- KEYS   topics deleted versions changes
-- ARGV   name id
-- GIVES  version, or 0 when this topic was gone already
-- USES   clock changed

local known = redis.call('HGET', topics, name)
if not known then return '0' end
local topic = cjson.decode(known)
if topic.id ~= id then return '0' end
redis.call('HDEL', topics, name)
redis.call('HSET', deleted, id, string.format('{"name":"%s","partitions":%.0f,"created_ms":%.0f}',
  name, topic.partitions, topic.created_ms))
return changed(versions, changes, 'topics')
