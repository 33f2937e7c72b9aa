-- delete_group: forget a group without members, and its offsets.
--
-- `idle`: only when it has no offsets either, and its version is still `known`; gives 0 when it is not so.
--
-- KEYS   state head sessions beats assignment offsets wake
-- ARGV   idle:int known
-- GIVES  deleted
-- FAILS  NON_EMPTY_GROUP GROUP_ID_NOT_FOUND
-- USES   refuse

local group = redis.call('HMGET', head, 'version', 'phase')
local kept = redis.call('EXISTS', offsets)
if idle == 1 and (kept == 1 or (group[1] or '0') ~= known) then return 0 end
if idle == 1 and not group[1] then return 1 end
if not group[1] and kept == 0 then return refuse('GROUP_ID_NOT_FOUND', 'there is no such group') end
if group[1] and group[2] ~= 'Empty' then return refuse('NON_EMPTY_GROUP', 'the group has members') end
redis.call('UNLINK', state, head, sessions, beats, assignment, offsets)
redis.call('SPUBLISH', wake, 'Dead ' .. (group[1] or '0'))
return 1
