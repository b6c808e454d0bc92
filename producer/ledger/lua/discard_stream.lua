-- Delete what stands in place of a job's stream. Only what was looked at: another worker may have put the job's stream
-- there meanwhile.
-- KEYS  1 events          ARGV  id and fields of the last entry that was read, where it was a stream
if redis.call('TYPE', KEYS[1]).ok == 'stream' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] or {'', {}}
  if #last[2] ~= #ARGV - 1 or last[1] ~= ARGV[1] then return end
  for i, part in ipairs(last[2]) do
    if part ~= ARGV[i + 1] then return end
  end
end
redis.call('DEL', KEYS[1])
