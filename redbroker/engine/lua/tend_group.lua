-- tend_group: what a group needs of whoever looks after it: members whose sessions are over, a tick, nothing.
--
-- `renew`: the caller has not looked after this group until now, or lost sight of Redis: every watched member gets a
-- whole session to show itself. So does one whose session was over for longer than `overdue_ms`: nobody looked.
--
-- KEYS   head sessions beats offsets
-- ARGV   renew:int overdue_ms:int
-- GIVES  version now type protocol_type phase since deadline offsets first, then the members that are due
-- USES   clock

local now = clock()
local group = redis.call('HMGET', head, 'version', 'type', 'protocol_type', 'phase', 'since', 'deadline')
local kept = redis.call('EXISTS', offsets)
if not group[1] then return {'0', now, '', '', '', 0, 0, kept, -1} end

local function again(member_id)
  local timeout = string.match(redis.call('HGET', sessions, member_id) or '', '^(%d+)')
  if timeout then redis.call('ZADD', beats, now + tonumber(timeout), member_id) end
end

local due = {}
if renew == 1 then
  for _, member_id in ipairs(redis.call('ZRANGE', beats, 0, -1)) do again(member_id) end
else
  local over = redis.call('ZRANGEBYSCORE', beats, '-inf', now, 'WITHSCORES')
  for i = 1, #over, 2 do
    if tonumber(over[i + 1]) < now - overdue_ms then again(over[i]) else due[#due + 1] = over[i] end
  end
end
local first = redis.call('ZRANGE', beats, 0, 0, 'WITHSCORES')[2] or -1
return {group[1], now, group[2], group[3], group[4], tonumber(group[5]), tonumber(group[6]), kept, tonumber(first),
  unpack(due, 1, 1000)}
