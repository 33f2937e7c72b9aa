-- set_configs: set and unset dynamic broker configs for all workers.
--
-- KEYS   configs versions changes
-- ARGV   values
-- GIVES  version
-- USES   clock changed

-- values: JSON object, config name -> value, or null to unset.
for name, value in pairs(cjson.decode(values)) do
  if value == cjson.null then redis.call('HDEL', configs, name) else redis.call('HSET', configs, name, value) end
end
return changed(versions, changes, 'topics')
