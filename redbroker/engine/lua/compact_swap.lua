-- compact_swap: end a compaction: copy what was appended since the last copy, and put the second stream in the log's place.
--
-- What is still to copy is bounded; `behind` asks to copy more outside, from `last_id` on, and to come again. IDs,
-- epochs, producers and `written` stay as they are: readers and appends notice nothing. The old stream is freed in the
-- background.
--
-- `base` is where the kept bytes begin in the count of `written`: what was saved counts as trimmed. `lost_time` says
-- that the batch of the largest timestamp, `time_at`, is not what it was. The new horizon is the time of the swap:
-- until now readers could still see the records behind the tombstones below `cleaned`.
--
-- KEYS   log state times janitor compacted compacted_times
-- ARGV   topic_id holder lease_ms:int rid after indexed:int entries_max:int bytes_max:int
-- ARGV   cleaned cleaned_written base:int time_at lost_time:int tombstones horizons
-- GIVES  outcome last_id
-- USES   clock even_when_full leader lease stream_end tail_copy

even_when_full(janitor) -- it frees more than it takes
if not holds(state, janitor, topic_id, holder, lease_ms, rid) then return {'lost', after} end
if redis.call('HGET', state, 'swapped') == holder then return {'done', after} end -- sent again
if after == '' or stream_end(compacted) ~= after then return {'lost', after} end

local newest = redis.call('ZREVRANGE', times, 0, entries_max, 'WITHSCORES')
if #newest > 2 * entries_max and tonumber(string.match(newest[2 * entries_max + 1], '^(%d+)')) > indexed then
  return {'behind', after}
end
local last_id, _, ended = tail_copy(log, compacted, after, entries_max, bytes_max)
if not ended then return {'behind', last_id} end
for i = 1, #newest, 2 do
  if tonumber(string.match(newest[i], '^(%d+)')) <= indexed then break end
  redis.call('ZADD', compacted_times, newest[i + 1], newest[i])
end

redis.call('UNLINK', log, times)
redis.call('RENAME', compacted, log)
if redis.call('EXISTS', compacted_times) == 1 then redis.call('RENAME', compacted_times, times) end
local trimmed = math.max(base, tonumber(redis.call('HGET', state, 'trimmed')))
if lost_time == 1 and redis.call('HGET', state, 'time_at') == time_at then redis.call('HSET', state, 'time_at', -1) end
redis.call('HSET', state, 'trimmed', string.format('%.0f', trimmed), 'cleaned', cleaned,
  'cleaned_written', cleaned_written, 'tombstones', tombstones, 'swapped', holder,
  'horizons', string.format('%s%s:%.0f', horizons, cleaned, clock()))
return {'done', last_id}
