-- A worker that was taken for dead is none: the death that was counted for it is taken back.
-- KEYS  1 RQ hash          ARGV  1 our name
local lost_by, deaths = unpack(fields_of(KEYS[1], 'lost_by', 'deaths'))
if lost_by == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'lost_by')
  if (tonumber(deaths) or 0) > 0 then redis.call('HINCRBY', KEYS[1], 'deaths', -1) end
end
