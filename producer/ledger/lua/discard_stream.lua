-- Delete what stands in place of a job's stream. Only what was looked at: another worker may have put the job's stream
-- there meanwhile.
-- KEYS  1 events          ARGV  1 id of the last entry that was seen, where it was a stream; then its fields, if read
if redis.call('TYPE', KEYS[1]).ok == 'stream' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] or {'', {}}
  if last[1] ~= ARGV[1] or (#ARGV > 1 and #last[2] ~= #ARGV - 1) then return end
  for i = 2, #ARGV do
    if last[2][i - 1] ~= ARGV[i] then return end
  end
end
redis.call('DEL', KEYS[1])
