-- Delete what stands in place of a job's result. Only what was looked at: a result may have come meanwhile.
-- KEYS  1 result          ARGV  1 what stood there, where it was a string  2 bytes that a result may have
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'string' or redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[2]) or redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
