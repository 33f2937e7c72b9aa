-- beat_group: a member is alive: its session begins anew.
--
-- The hot path of groups: nothing is loaded, nothing but one deadline written. In PreparingRebalance the member is
-- alive, too, and told to join again. `steady` of 0: there is more to tell the member than that all is well, so the
-- group's machine must be asked.
--
-- KEYS   head sessions beats
-- ARGV   member_id epoch:int instance
-- GIVES  steady
-- FAILS  UNKNOWN_MEMBER_ID FENCED_INSTANCE_ID ILLEGAL_GENERATION REBALANCE_IN_PROGRESS
-- USES   refuse clock session

local group = redis.call('HMGET', head, 'type', 'phase', 'epoch')
if not group[1] then return refuse('UNKNOWN_MEMBER_ID', 'there is no such group') end
local session, refusal = session_of(head, sessions, member_id, instance)
if refusal then return refusal end

if group[1] ~= 'classic' then
  if epoch ~= session.epoch then
    if string.find(session.flags, 'c', 1, true) then
      return refuse('ILLEGAL_GENERATION', 'the generation is another one')
    end
    return 0
  end
  touch(beats, member_id, session)
  return string.find(session.flags, 'n', 1, true) and 0 or 1
end

if epoch ~= tonumber(group[3]) then return refuse('ILLEGAL_GENERATION', 'the generation is ' .. group[3]) end
touch(beats, member_id, session)
if group[2] == 'PreparingRebalance' then return refuse('REBALANCE_IN_PROGRESS', 'the group is rebalancing') end
return 1
