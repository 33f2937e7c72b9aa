-- note_group: list a group for ListGroups and for those who look after groups.
--
-- `fresh`: only if it is not listed yet. A group that would be one too many is refused.
--
-- KEYS   groups
-- ARGV   name summary fresh:int groups_max:int
-- GIVES  noted
-- FAILS  POLICY_VIOLATION
-- USES   refuse

if redis.call('HEXISTS', groups, name) == 0 then
  if redis.call('HLEN', groups) >= groups_max then
    return refuse('POLICY_VIOLATION', 'groups_max (' .. groups_max .. ') groups exist already')
  end
elseif fresh == 1 then
  return 0
end
redis.call('HSET', groups, name, summary)
return 1
