-- load_topics: all topics, dynamic broker configs and unfinished deletions, unless the caller knows this version.
--
-- KEYS   topics configs deleted versions
-- ARGV   known
-- GIVES  version topics configs deleted

local version = redis.call('HGET', versions, 'topics') or '0'
if version == known then return {version} end
return {version, redis.call('HGETALL', topics), redis.call('HGETALL', configs), redis.call('HGETALL', deleted)}
