-- swap_topic: replace a topic's description if it is still the one the caller read (compare and set).
--
-- Sent again it still writes, or the WAIT behind it would count replicas that never saw the change.
--
-- KEYS   topics versions changes
-- ARGV   name before after
-- GIVES  version, or 0 when another change came first
-- USES   clock changed even_when_full

even_when_full(topics) -- a shorter retention is one way out
local now = redis.call('HGET', topics, name)
if now == after then
  redis.call('HSET', topics, name, after)
  return redis.call('HGET', versions, 'topics')
end
if now ~= before then return '0' end
redis.call('HSET', topics, name, after)
return changed(versions, changes, 'topics')
