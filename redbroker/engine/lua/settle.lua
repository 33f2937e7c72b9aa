-- settle: lift the barrier of a new leader epoch once replicas have it (see lib/leader.lua).
--
-- Called twice. With `seen` empty it writes what is there once more, so that the WAIT behind it covers the bump, and
-- tells it; with what it told, it takes it away, unless there was another bump in between.
--
-- KEYS   state
-- ARGV   seen
-- GIVES  bumped
-- USES   even_when_full

local bumped = redis.call('HGET', state, 'bumped')
if not bumped then return '' end
if seen == '' then
  even_when_full(state)
  redis.call('HSET', state, 'bumped', bumped)
elseif seen == bumped then
  redis.call('HDEL', state, 'bumped')
end
return bumped
