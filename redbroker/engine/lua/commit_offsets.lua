-- commit_offsets: store committed offsets, if the member may.
--
-- Kafka's checks: a member must be of the current generation (or epoch) and, in a classic group, not be waiting for the
-- assignment; a commit without generation is one of an admin or of a consumer that assigns itself, and needs an empty
-- group or none. For a classic member a commit is a sign of life.
--
-- KEYS   head sessions beats offsets
-- ARGV   member_id epoch:int instance api_version:int
-- REST   partition, then the JSON of its entry before and after the commit time
-- GIVES  now
-- FAILS  UNKNOWN_MEMBER_ID FENCED_INSTANCE_ID ILLEGAL_GENERATION STALE_MEMBER_EPOCH REBALANCE_IN_PROGRESS
-- FAILS  GROUP_ID_NOT_FOUND UNSUPPORTED_VERSION
-- USES   refuse clock session

local group = redis.call('HMGET', head, 'type', 'phase', 'epoch')
if not group[1] and epoch >= 0 then
  if api_version >= 9 then return refuse('GROUP_ID_NOT_FOUND', 'there is no such group') end
  return refuse('ILLEGAL_GENERATION', 'there is no such group')
end

local anybody = epoch < 0 and (not group[1] or group[2] == 'Empty')
if not anybody then
  if group[1] == 'classic' and epoch < 0 and member_id == '' and instance == '' then
    return refuse('UNKNOWN_MEMBER_ID', 'the group has members: only they commit')
  end
  local session, refusal = session_of(head, sessions, member_id, instance)
  if refusal then return refusal end
  local classic = string.find(session.flags, 'c', 1, true)
  if not classic and api_version < 9 then
    return refuse('UNSUPPORTED_VERSION', 'members of the consumer protocol commit with version 9 or above')
  end
  if epoch ~= (group[1] == 'classic' and tonumber(group[3]) or session.epoch) then
    if classic then return refuse('ILLEGAL_GENERATION', 'the generation is another one') end
    return refuse('STALE_MEMBER_EPOCH', 'the member epoch is ' .. session.epoch)
  end
  if group[2] == 'CompletingRebalance' then return refuse('REBALANCE_IN_PROGRESS', 'the assignment is not there yet') end
  if group[1] == 'classic' then touch(beats, member_id, session) end
end

local now = clock()
local time = string.format('%.0f', now)
for i = 5, #ARGV, 3 do redis.call('HSET', offsets, ARGV[i], ARGV[i + 1] .. time .. ARGV[i + 2]) end
return now
