-- note_replicas: keep the most replicas that were ever seen, and tell it. A number that falls is a replica that is away.
--
-- KEYS   replicas
-- ARGV   seen:int
-- GIVES  most
-- USES   even_when_full

local most = tonumber(redis.call('HGET', replicas, 'most') or 0)
if seen <= most then return most end
even_when_full(replicas)
redis.call('HSET', replicas, 'most', seen)
return seen
