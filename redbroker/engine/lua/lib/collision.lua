-- collision: an existing topic whose name differs from this one only in '.' and '_', or nil.
--
-- Names with few such characters are looked up in all spellings; only for the others every topic is compared.
local SPELLINGS_MAX = 64

local function spellings(name)
  local found = {''}
  for part in string.gmatch(name, '[^._]*[._]?') do
    local last = string.sub(part, -1)
    if last ~= '.' and last ~= '_' then
      for i = 1, #found do found[i] = found[i] .. part end
    else
      local stem, count = string.sub(part, 1, -2), #found
      if 2 * count > SPELLINGS_MAX then return nil end
      for i = 1, count do
        found[count + i] = found[i] .. stem .. '_'
        found[i] = found[i] .. stem .. '.'
      end
    end
  end
  return found
end

local function collision(topics, name)
  if not string.find(name, '[._]') then return nil end
  local names = spellings(name)
  if names then
    for i, known in ipairs(redis.call('HMGET', topics, unpack(names))) do
      if known and names[i] ~= name then return names[i] end
    end
    return nil
  end
  local flat, length = string.gsub(name, '%.', '_'), #name
  for _, other in ipairs(redis.call('HKEYS', topics)) do
    if #other == length and other ~= name and string.gsub(other, '%.', '_') == flat then return other end
  end
  return nil
end
