-- Mark a job that is ours as parked, or as running again: of a worker that dies, only the job that ran counts a death.
-- KEYS  1 our list of taken jobs  2 RQ hash          ARGV  1 job id  2 our name; '' where it runs again
if is_held(KEYS[1], ARGV[1]) and redis.call('TYPE', KEYS[2]).ok == 'hash' then
  if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], 'parked_by', ARGV[2]) else redis.call('HDEL', KEYS[2], 'parked_by') end
end
