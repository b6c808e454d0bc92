-- A worker goes in good order. What it still holds, jobs or ends, goes to others at once.
-- KEYS  1 deadlines of the workers' beats  2 the model's ring  3 takers  4 its list of taken jobs
--       5 its list of ends to settle
-- ARGV  1 name  2 name and model
leave_ring(KEYS[2], ARGV[1])
if redis.call('EXISTS', KEYS[4], KEYS[5]) > 0 then
  redis.call('ZADD', KEYS[1], 0, ARGV[2])
else
  redis.call('ZREM', KEYS[1], ARGV[2])
  redis.call('SREM', KEYS[3], ARGV[1])
end
