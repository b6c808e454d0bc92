-- A job that has ended here, or is somebody else's, leaves our list.
-- KEYS  1 our list of taken jobs  2 RQ hash          ARGV  1 job id  2 our name
redis.call('LREM', KEYS[1], 1, ARGV[1])
if fields_of(KEYS[2], 'taken_by')[1] == ARGV[2] then redis.call('HDEL', KEYS[2], 'taken_by') end
