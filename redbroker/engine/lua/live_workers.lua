-- live_workers: the registered workers, for a process that is none itself.
--
-- KEYS   workers versions
-- ARGV   known
-- GIVES  version workers
-- USES   members

local version, list = members(workers, versions, known)
return {version, list}
