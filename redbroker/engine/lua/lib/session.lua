-- session: what is known of a member, or the refusal: nobody of this name, or another one has the instance id.
--
-- `instance` is "=<instance id>", or empty where the request names none.
local function session_of(head, sessions, member_id, instance)
  if instance ~= '' then
    local owner = redis.call('HGET', head, 'static:' .. string.sub(instance, 2))
    if owner and owner ~= member_id then
      return nil, refuse('FENCED_INSTANCE_ID', 'another member has this group.instance.id')
    end
    if not owner then return nil, refuse('UNKNOWN_MEMBER_ID', 'no member has this group.instance.id') end
  end
  local known = redis.call('HGET', sessions, member_id)
  if not known then return nil, refuse('UNKNOWN_MEMBER_ID', 'not a member of this group') end
  local timeout, epoch, flags = string.match(known, '^(%d+) (%-?%d+) (%S+)')
  return {timeout = tonumber(timeout), epoch = tonumber(epoch), flags = flags}
end

-- A member that waits for the others has no deadline, and gets none by showing itself.
local function touch(beats, member_id, session)
  redis.call('ZADD', beats, 'XX', clock() + session.timeout, member_id)
end
