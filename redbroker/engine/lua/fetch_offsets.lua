-- fetch_offsets: committed offsets, of some partitions or of all; for a KIP-848 member only of the right epoch.
--
-- KEYS   head sessions offsets
-- ARGV   member_id epoch:int everything:int
-- REST   partition
-- GIVES  an entry or nothing per partition; for everything, partition and entry by turns
-- FAILS  UNKNOWN_MEMBER_ID FENCED_INSTANCE_ID STALE_MEMBER_EPOCH ILLEGAL_GENERATION
-- USES   refuse clock session

if epoch >= 0 and redis.call('HGET', head, 'type') == 'consumer' then
  local session, refusal = session_of(head, sessions, member_id, '')
  if refusal then return refusal end
  if epoch ~= session.epoch then
    if string.find(session.flags, 'c', 1, true) then
      return refuse('ILLEGAL_GENERATION', 'the generation is another one')
    end
    return refuse('STALE_MEMBER_EPOCH', 'the member epoch is ' .. session.epoch)
  end
end
if everything == 1 then return redis.call('HGETALL', offsets) end
local found = {}
for i = 4, #ARGV do found[i - 3] = redis.call('HGET', offsets, ARGV[i]) end
return found
