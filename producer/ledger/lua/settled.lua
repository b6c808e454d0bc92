-- RQ has been told of an end.
-- KEYS  1 our list of ends to settle  2 takers          ARGV  1 job id  2 our name among the takers for that list
redis.call('LREM', KEYS[1], 1, ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[2]) end
