-- Progress of the job that we run. Not for one that was deleted, which would come back as a hash of one field.
-- KEYS  1 our list of taken jobs  2 RQ hash          ARGV  1 job id  2 meta
if is_held(KEYS[1], ARGV[1]) and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'meta', ARGV[2]) end
