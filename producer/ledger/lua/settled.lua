-- RQ has been told of an end.
-- KEYS  1 our list of ends to settle  2 takers  3 RQ hash
-- ARGV  1 job id  2 our name among the takers for that list  3 prefix of our keys  4 prefix of our queues' names
--       5 prefix of RQ's keys
redis.call('LREM', KEYS[1], 1, ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[2]) end
local place = place_of(ARGV[3], ARGV[4], fields_of(KEYS[3], 'origin')[1] or '')
if place then let_go(place, ARGV[5], ARGV[1]) end
