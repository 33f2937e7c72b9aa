-- proved_end: how far a log is known to be held by replicas: its end where there are none. What lies behind may be taken
-- back by a failover, so nothing is deleted or compacted there.
--
-- Known is what was kept beside the log, and what the caller has proved in this epoch.
local function proved_end(field, replicas, proved_in, proved)
  local next_offset = tonumber(field.next)
  if replicas == 0 then return next_offset end
  local kept = field.confirmed and tonumber(string.match(field.confirmed, '^%d+')) or 0
  if proved_in == tonumber(field.epoch) then kept = math.max(kept, proved) end
  return math.min(next_offset, kept)
end
