-- A request to cancel a job, on behalf of RQ's stop command. Not for one that has ended.
-- KEYS  1 events  2 result  3 cancel          ARGV  1 ttl in s
-- Returns 1 where the request stands.
if has_ended(KEYS[1], KEYS[2]) then return 0 end
redis.call('SET', KEYS[3], '1', 'EX', ARGV[1])
return 1
