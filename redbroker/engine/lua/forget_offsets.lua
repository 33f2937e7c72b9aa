-- forget_offsets: delete committed offsets, if the group is still as the caller saw it.
--
-- An entry given with a partition must still be the one that is stored: a newer commit is kept.
--
-- KEYS   head offsets
-- ARGV   known
-- REST   partition entry
-- GIVES  deleted, or -1 when the group has changed

if (redis.call('HGET', head, 'version') or '0') ~= known then return -1 end
local deleted = 0
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' or redis.call('HGET', offsets, ARGV[i]) == ARGV[i + 1] then
    deleted = deleted + redis.call('HDEL', offsets, ARGV[i])
  end
end
return deleted
