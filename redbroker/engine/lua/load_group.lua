-- load_group: a group's value, unless the caller knows this version of it.
--
-- `offsets_only`: there is no group value, but somebody has committed offsets in its name.
--
-- KEYS   state head offsets
-- ARGV   known
-- GIVES  version now offsets_only value
-- USES   clock

local version = redis.call('HGET', head, 'version')
if not version then return {'0', clock(), redis.call('EXISTS', offsets), ''} end
if version == known then return {version, clock(), 0, ''} end
return {version, clock(), 0, redis.call('GET', state)}
