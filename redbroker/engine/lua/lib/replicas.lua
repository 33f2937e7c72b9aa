-- replicas: how many replicas are good: connected, and heard of within the last seconds.
--
-- A paused or cut-off replica stays "online" for repl-timeout (60 s); its lag, the seconds since it last acknowledged
-- anything, tells sooner. A healthy one acknowledges every second, and at once when a WAIT asks. (The lag is -1 when it
-- did so in a second that the server's cached clock has yet to begin.)
local LAG_MAX_S = 2

local function good_replicas(info)
  local good, at = 0, 1
  while true do -- plain find: a pattern would be tried at each of some 400 bytes
    local _, found = string.find(info, 'state=online,offset=', at, true)
    if not found then return good end
    local lag = string.match(info, '^%d+,lag=(%-?%d+)', found + 1)
    if lag and tonumber(lag) <= LAG_MAX_S then good = good + 1 end
    at = found
  end
end
