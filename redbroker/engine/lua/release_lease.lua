-- release_lease: let another one have the partition at once, and remove what is half done.
--
-- KEYS   janitor compacted compacted_times
-- ARGV   holder
-- GIVES  released

if redis.call('HGET', janitor, 'holder') ~= holder then return 0 end
redis.call('UNLINK', compacted, compacted_times, janitor)
return 1
