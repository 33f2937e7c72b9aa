-- lease: does this holder still have the partition, on the master it began on? Renews the lease where it does.
--
-- A holder's name is used once, so it is the fencing token: who was paused while another took over is found out by the
-- first step it tries. A lease that has run out but was taken by nobody is still its holder's. Another replication id
-- means that steps which were answered may be missing here. Needs `clock` and `leader`.
local function holds(state, janitor, topic_id, holder, lease_ms, rid)
  if redis.call('HGET', state, 'id') ~= topic_id or redis.call('HGET', janitor, 'holder') ~= holder then return false end
  if replication_id(replication()) ~= rid then return false end
  redis.call('HSET', janitor, 'until', string.format('%.0f', clock() + lease_ms))
  return true
end
