-- swap_group: replace a group's value if it is still the one the caller read (compare and set).
--
-- With it goes what heartbeats, commits and people read instead of the value: head, sessions, beats, assignment. They
-- are told as differences, which hold because they were taken from the very value that is replaced. Sent again after a
-- lost connection, it finds its own token and answers as before.
--
-- `swapped`: 1 done; 0 another change came first, and `value` is what it left; -1 a member that was to be expired has
-- shown itself; -2 it is later than `until_ms` (0: any time will do), so deadlines may have passed unheard. An empty `value` in ARGV deletes the group, except its offsets.
--
-- KEYS   state head sessions beats assignment wake
-- ARGV   known token value wakes:int until_ms:int changes
-- GIVES  swapped version now value
-- USES   clock

-- changes: JSON {head {field: value}, since: bool, static {instance id: member id}, static_gone [instance id],
--   sessions {member id: text}, gone [member id], watch {member id: timeout ms}, unwatch [member id],
--   expired [member id], owners_anew: bool, owners {partition: text}, owners_gone [partition]}
local now = clock()
local before = redis.call('HMGET', head, 'version', 'token', 'phase')
local version = before[1] or '0'
if version ~= known then
  if before[2] == token then return {1, version, now, ''} end
  return {0, version, now, redis.call('GET', state) or ''}
end
if until_ms > 0 and now > until_ms then return {-2, version, now, ''} end
local change = cjson.decode(changes)
for _, member_id in ipairs(change.expired) do
  local deadline = redis.call('ZSCORE', beats, member_id)
  if deadline and tonumber(deadline) > now then return {-1, version, now, ''} end
end

local time = redis.call('TIME')
local next_version = math.max(tonumber(version) + 1, tonumber(time[1]) * 1000000 + tonumber(time[2]))
local written = string.format('%.0f', next_version)
if value == '' then
  redis.call('DEL', state, head, sessions, beats, assignment)
  redis.call('SPUBLISH', wake, 'Dead ' .. written)
  return {1, '0', now, ''}
end

redis.call('SET', state, value)
redis.call('HSET', head, 'version', written, 'token', token)
for field, text in pairs(change.head) do redis.call('HSET', head, field, text) end
if change.head.phase ~= before[3] then redis.call('HSET', head, 'since', string.format('%.0f', now)) end
for _, instance in ipairs(change.static_gone) do redis.call('HDEL', head, 'static:' .. instance) end
for instance, member_id in pairs(change.static) do redis.call('HSET', head, 'static:' .. instance, member_id) end
for _, member_id in ipairs(change.gone) do
  redis.call('HDEL', sessions, member_id)
  redis.call('ZREM', beats, member_id)
end
for member_id, text in pairs(change.sessions) do redis.call('HSET', sessions, member_id, text) end
for _, member_id in ipairs(change.unwatch) do redis.call('ZREM', beats, member_id) end
for member_id, timeout_ms in pairs(change.watch) do redis.call('ZADD', beats, now + timeout_ms, member_id) end
if change.owners_anew then redis.call('DEL', assignment) end
for _, partition in ipairs(change.owners_gone) do redis.call('HDEL', assignment, partition) end
for partition, owner in pairs(change.owners) do redis.call('HSET', assignment, partition, owner) end
if wakes == 1 then redis.call('SPUBLISH', wake, change.head.phase .. ' ' .. written) end
return {1, written, now, ''}
