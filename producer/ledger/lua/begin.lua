-- Show a job that is ours as running here, in RQ's records. It stands in RQ's registry of started jobs for ever, so
-- that RQ's upkeep, by whom and by what clock ever, gives no job up that we have: whoever ends it takes it out.
-- KEYS  1 our list of taken jobs  2 RQ hash  3 hash of the run  4 runs of the job  5 RQ's started registry
--       6 our runs  7 our record
-- ARGV  1 job id  2 our name  3 id of the run  4 ttl of the run, s  5 when it is over, unix s
--       6 how many fields and values of the run follow, then those of the job's hash
-- Returns 0 where the job is not ours any more, or nobody can tell, and nothing was written.
if not is_ours(KEYS[1], KEYS[2], ARGV[1], ARGV[2]) then return 0 end
local first, n, run = 7, tonumber(ARGV[6]), ARGV[1] .. ':' .. ARGV[3]
-- Where somebody has put another kind of key in place of one of RQ's, the job is not shown there, and runs.
unless_wrong_type('HSET', KEYS[3], unpack(ARGV, first, first + n - 1))
redis.call('EXPIRE', KEYS[3], ARGV[4])
unless_wrong_type('ZADD', KEYS[4], ARGV[5], ARGV[3])
redis.call('EXPIRE', KEYS[4], ARGV[4])
unless_wrong_type('ZADD', KEYS[5], '+inf', run)
unless_wrong_type('SADD', KEYS[6], run)
redis.call('EXPIRE', KEYS[6], ARGV[4])
redis.call('HSET', KEYS[7], 'state', 'busy')
if redis.call('TYPE', KEYS[2]).ok == 'hash' then
  redis.call('HSET', KEYS[2], unpack(ARGV, first + n))
  redis.call('PERSIST', KEYS[2])
end
return 1
