-- header_at: the 61 bytes that open the batch which holds an offset: its times, without its records.
--
-- Tells how long the oldest unread record of a group has been waiting. Reads only, and sends no records over the network.
--
-- KEYS   log epochs
-- ARGV   offset
-- GIVES  header

local epoch = redis.call('ZREVRANGEBYSCORE', epochs, offset, '-inf', 'LIMIT', 0, 1)[1] or '0'
local entry = redis.call('XRANGE', log, epoch .. '-' .. offset, '+', 'COUNT', 1)[1]
return entry and string.sub(entry[2][2], 1, 61) or ''
