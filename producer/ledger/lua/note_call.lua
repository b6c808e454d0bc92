-- What a gateway knows of a job that is there changes.
-- KEYS  1 RQ hash of the job
-- ARGV  1 name of the field  2 its value
-- Returns whether it is there.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
