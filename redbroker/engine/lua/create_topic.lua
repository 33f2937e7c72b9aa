-- create_topic: add a topic that nobody has added yet.
--
-- Sent again after a lost connection it finds its own id and answers as before; it still writes, or the WAIT behind it
-- would count replicas that never saw the topic. Names that differ only in '.' and '_'
-- are refused, as by Kafka: they would collide in metric names.
--
-- KEYS   topics versions changes
-- ARGV   name id partitions configs topics_max:int
-- GIVES  version created_ms
-- FAILS  TOPIC_ALREADY_EXISTS INVALID_TOPIC_EXCEPTION POLICY_VIOLATION
-- USES   refuse clock changed collision

local known = redis.call('HGET', topics, name)
if known then
  local topic = cjson.decode(known)
  if topic.id ~= id then return refuse('TOPIC_ALREADY_EXISTS', 'topic ' .. name .. ' already exists') end
  redis.call('HSET', topics, name, known)
  return {redis.call('HGET', versions, 'topics'), string.format('%.0f', topic.created_ms)}
end
if redis.call('HLEN', topics) >= topics_max then
  return refuse('POLICY_VIOLATION', 'topics_max (' .. topics_max .. ') topics exist already')
end
local other = collision(topics, name)
if other then
  return refuse('INVALID_TOPIC_EXCEPTION', 'topic ' .. name .. ' collides with existing topic ' .. other)
end

local version = changed(versions, changes, 'topics')
redis.call('HSET', topics, name,
  '{"id":"' .. id .. '","partitions":' .. partitions .. ',"configs":' .. configs .. ',"created_ms":' .. version .. '}')
return {version, version}
