-- compact_write: add kept batches, under the IDs they have in the log, to the second stream of a compaction.
--
-- `after` is the ID that stream ends with, empty while there is none. Without batches it only renews the lease.
--
-- KEYS   state janitor compacted
-- ARGV   topic_id holder lease_ms:int rid after
-- REST   id batch
-- GIVES  held
-- USES   clock leader lease stream_end

if not holds(state, janitor, topic_id, holder, lease_ms, rid) then return 0 end
if #ARGV > 5 then
  local last = stream_end(compacted)
  if last == ARGV[#ARGV - 1] then return 1 end -- sent again: it is written
  if last ~= after then return 0 end
  for i = 6, #ARGV, 2 do redis.call('XADD', compacted, ARGV[i], 'b', ARGV[i + 1]) end
end
return 1
