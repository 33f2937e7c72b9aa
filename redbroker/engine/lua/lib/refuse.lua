-- refuse: end the operation with one of Kafka's error names; Redis counts them in INFO errorstats.
local function refuse(code, why) return redis.error_reply(code .. ' ' .. why) end
